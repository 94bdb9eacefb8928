"""Scalers without the other half of mixed precision: nothing in the project computes in float16, or they are off.

A scaler that scales where no file autocasts, casts to half or leaves it to a framework; and one that is made with
`enabled=False`, and nowhere otherwise, in a project that autocasts by a switch.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import truth
from ampguard.auditing.reading.tree import argument, receiver
from ampguard.auditing.rules.amp._steps import RUNNERS

_MADE = re.compile(r"\bGradScaler\(")
_OTHERS = re.compile(r"\bGradScaler\((?![^)\n]*enabled\s*=\s*False\s*\))")
_HALF = re.compile(
    r"autocast|\.half\(|torch\.(b?float16|half)\b|amp\.initialize\(|deepspeed|(import|from) accelerate"
    r"|ightning|fabric|custom_fwd"
)
_BFLOAT = re.compile(r"bfloat16|bf16", re.IGNORECASE)
_SWITCHED = re.compile(r"autocast\([^)\n]*enabled\s*=\s*(?!True|False)[\w.]")


def scalers_without_half(module: Module) -> Iterator[ast.Call]:
    """Walk the first call that scales, in a project that makes a scaler and computes nothing in float16."""
    if not module.mentions((".scale(",)) or module.mentions(("autocast",)) or module.role in ("test", "benchmark"):
        return
    scaling = [c for c in module.calls_of("scale") if c.args and is_scaler(module, receiver(c))]
    if scaling and module.project.says(_MADE, "GradScaler(") and not module.project.says(_HALF):
        yield min(scaling, key=lambda c: c.lineno)


def scalers_switched_off(module: Module) -> Iterator[ast.Call]:
    """Walk the scalers that are off, where no other is made, and a switch of the project's turns its autocast on."""
    if module.mentions(RUNNERS) or module.role in ("test", "benchmark"):
        return
    made = [c for c in scaler_constructions(module) if truth(module, argument(c, None, "enabled")) is False]
    for call in made:
        chosen = any(isinstance(at, ast.If | ast.IfExp) for at in module.tree.above(call))
        if chosen or module.project.says(_OTHERS, "GradScaler(") or module.project.says(_BFLOAT):
            continue
        if module.project.says(_SWITCHED, "autocast("):
            yield call
