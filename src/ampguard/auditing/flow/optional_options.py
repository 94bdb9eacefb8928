"""Files opened, or walks over, an option that has no default and is not required: None, where it is not given.

`parser.add_argument("--model_path")`, then `torch.load(args.model_path)`: whoever starts the script without the option
is told of NoneType, not of the option. Left alone is what the file asks about, or loads under a test.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_has_attribute import is_none_by_default, option
from ampguard.auditing.flow.optional_plain import is_conditional
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key

_HOLDERS = ("args", "opt", "opts", "flags", "FLAGS", "cfg", "config")


def uses_of_options_left_out(module: Module) -> Iterator[Use]:
    """Walk the first such load of each option."""
    if not module.mentions(("add_argument(",)):
        return
    told: set[str] = set()
    for node in _needed(module):
        place = key(node) or ""
        owner, _, name = place.rpartition(".")
        if owner.rpartition(".")[2] not in _HOLDERS or name in told:
            continue
        declared = option(module, name)
        if declared is None or not is_none_by_default(declared) or _is_asked(module, name):
            continue
        around = module.tree.function(node) or module.root
        if not is_conditional(module, node, around):
            told.add(name)
            yield Use(place, node, declared)


def _needed(module: Module) -> Iterator[ast.expr]:
    """Walk what is loaded, and what a loop goes over."""
    for call in module.calls_of("load"):
        if key(call.func) == "torch.load" and call.args:
            yield call.args[0]
    for loop in module.tree.all(ast.For, ast.comprehension):
        if isinstance(loop.iter, ast.Attribute):
            yield loop.iter


def _is_asked(module: Module, name: str) -> bool:
    """Whether a line of the file asks about an option, gives it a value, or hands it to what does."""
    word = re.escape(name)
    asks = rf"\b(if|elif|not|and|or|assert|while)\b[^\n]*\.{word}\b|\.{word} (or|is|if|and)\b"
    asks += rf"|\.{word}\s*=(?!=)|['\"]{word}['\"]"
    return re.search(asks, module.text) is not None or "set_defaults" in module.text
