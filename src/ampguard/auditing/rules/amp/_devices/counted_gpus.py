"""The number of GPUs as it is, where there may be none: as a modulus, or as a size that things are repeated to.

`gpu = (gpu + 1) % torch.cuda.device_count()` stops without a GPU; `x.expand((torch.cuda.device_count(),) + x.size())`
leaves nothing of a batch.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called
from ampguard.auditing.rules.amp._devices.demands import runtime_calls
from ampguard.auditing.rules.amp._devices.refused import stops_before, tests_outside

_SIZES = ("expand", "repeat", "repeat_interleave", "zeros", "ones", "empty", "split", "chunk", "view", "reshape")
_JOB = regex(r"^[^#\n]*(nccl|set_device\(|init_process_group|local_rank|LOCAL_RANK|mp\.spawn)", re.MULTILINE)
_OPTIONAL = regex(r"cuda|gpu|cpu|device|dist|rank|world|parallel|ddp", re.IGNORECASE)


def gpus_counted(module: Module) -> Iterator[ast.Call]:
    """Walk the `torch.cuda.device_count()` that a number is divided by, or that a size is, under no test."""
    if not module.mentions(("device_count",)) or _JOB.search(module.text):
        return
    for call in runtime_calls(module, "device_count"):
        if (_falls_back_elsewhere(module) and _divides(module, call)) or _is_a_size(module, call):
            asked = any(_OPTIONAL.search(ast.unparse(test)) for test, _ in tests_outside(module, call))
            caught = any(True for _ in module.tree.handlers_around(call))
            if not asked and not caught and not stops_before(module, call):
                yield call


def _falls_back_elsewhere(module: Module) -> bool:
    """Whether the file does without CUDA in another place."""
    return "is_available()" in module.text


def _divides(module: Module, call: ast.Call) -> bool:
    above = module.tree.parents[call]
    return (
        isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mod | ast.FloorDiv | ast.Div) and above.right is call
    )


def _is_a_size(module: Module, call: ast.Call) -> bool:
    """Whether a call is one of the sizes that another is given: in a tuple, or as it is."""
    above: ast.AST = module.tree.parents[call]
    while isinstance(above, ast.Tuple | ast.List) or (isinstance(above, ast.BinOp) and isinstance(above.op, ast.Add)):
        above = module.tree.parents[above]
    return isinstance(above, ast.Call) and called(above) in _SIZES and above.func is not call
