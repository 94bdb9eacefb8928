"""Files opened by an option that has no default and is not required: None, where the command line leaves it out.

`parser.add_argument("--model_path")`, then `torch.load(args.model_path)`: whoever starts the script without the option
is told of NoneType, not of the option. Left alone is what the file asks about, or loads under a test.
"""

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
    for call in module.calls_of("load"):
        if key(call.func) != "torch.load" or not call.args:
            continue
        place = key(call.args[0]) or ""
        owner, _, name = place.rpartition(".")
        if owner.rpartition(".")[2] not in _HOLDERS or name in told:
            continue
        declared = option(module, name)
        if declared is None or not is_none_by_default(declared) or _is_asked(module, name):
            continue
        around = module.tree.function(call) or module.root
        if not is_conditional(module, call, around):
            told.add(name)
            yield Use(place, call.args[0], declared)


def _is_asked(module: Module, name: str) -> bool:
    """Whether a line of the file asks about an option, gives it a value, or hands it to what does."""
    word = re.escape(name)
    asks = rf"\b(if|elif|not|and|or|assert|while)\b[^\n]*\.{word}\b|\.{word} (or|is|if|and)\b"
    asks += rf"|\.{word}\s*=(?!=)|['\"]{word}['\"]"
    return re.search(asks, module.text) is not None or "set_defaults" in module.text
