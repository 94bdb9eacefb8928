"""Waiting for CUDA around a model that is timed, in a file whose own choice of a device may be the CPU.

`torch.cuda.synchronize()` between two readings of a clock, under no test, where `if torch.cuda.is_available(): device =
torch.device("cuda")` has an `else` that says "cpu".
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._devices.demands import runtime_calls
from ampguard.auditing.rules.amp._devices.refused import stops_before, stops_without_cuda, tests_outside

_CPU = regex(r"^\s*(return|[\w.]*device\w*\s*=)\s*(torch\.device\()?['\"]cpu['\"]\)?\s*$", re.MULTILINE)
_CLOCKS = regex(r"\b(time\.time|perf_counter|monotonic|timer)\(")
_ASKED = regex(r"cuda|gpu|device|cpu|is_available", re.IGNORECASE)


def waited_for(module: Module) -> Iterator[ast.Call]:
    """Walk the waits for CUDA in functions that read a clock, where an arm of a test for CUDA chooses the CPU."""
    if not module.mentions(("synchronize(",)) or "is_available" not in module.text or not _chooses_by_arms(module):
        return
    for call in runtime_calls(module, "synchronize"):
        function = module.tree.function(call)
        if function is None or not _CLOCKS.search(module.text_of(function)):
            continue
        asked = any(_ASKED.search(ast.unparse(test)) for test, _ in tests_outside(module, call))
        if not asked and not stops_before(module, call) and not any(True for _ in module.tree.handlers_around(call)):
            yield call


def _chooses_by_arms(module: Module) -> bool:
    """Whether an `if` for CUDA has another arm, or lines behind it, that choose the CPU."""
    branches: list[ast.If] = module.tree.all(ast.If)
    for branch in branches:
        if "is_available()" in ast.unparse(branch.test) and not stops_without_cuda(module):
            other = [*branch.orelse, *module.tree.behind(branch)[:1]]
            if any(_CPU.search(ast.unparse(s)) for s in other):
                return True
    return False
