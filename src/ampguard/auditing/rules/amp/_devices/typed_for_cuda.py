"""Tensor types of CUDA beside a tensor whose device is known: `x.type(torch.cuda.FloatTensor)` next to `x.device`.

The function could ask its input where it is, and does for something else; on a CPU the type does not exist.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key
from ampguard.auditing.rules.amp._devices.refused import stops_before, tests_outside
from ampguard.auditing.rules.amp._devices.where_run import FOR_GPUS

_TYPES = regex(r"torch\.cuda\.\w+Tensor")
_DEVICES = regex(r"\b\w+\.device\b|\.new_(zeros|ones|tensor|full|empty)\(|_like\(")
_ASKED = regex(r"cuda|gpu|device|cpu|is_available")


def typed_for_cuda(module: Module) -> Iterator[ast.expr]:
    """Walk the types of CUDA that stand under no test in functions that know the device of a tensor."""
    if not module.mentions(("torch.cuda.",)) or not _TYPES.search(module.about("torch.cuda.")):
        return
    if module.mentions(FOR_GPUS):
        return
    attributes: list[ast.Attribute] = module.tree.all(ast.Attribute)
    for node in attributes:
        function = module.tree.function(node)
        if not node.attr.endswith("Tensor") or function is None or not _TYPES.fullmatch(key(node) or ""):
            continue
        above = module.tree.parents[node]
        if not isinstance(above, ast.Call) or called(above) in ("isinstance", "issubclass"):
            continue
        if not _DEVICES.search(module.text_of(function)):
            continue
        asked = any(_ASKED.search(ast.unparse(test)) for test, _ in tests_outside(module, node))
        caught = any(True for _ in module.tree.handlers_around(node))
        if not asked and not caught and not stops_before(module, above):
            yield node
