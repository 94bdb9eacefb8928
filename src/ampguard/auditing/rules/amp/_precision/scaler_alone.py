"""Scalers without the other half of mixed precision: nothing in the project computes in float16, or they are off.

A scaler that scales where no file autocasts, casts to half or leaves it to a framework; and one that is made with
`enabled=False`, and nowhere otherwise, in a project that autocasts by a switch.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import is_scaler, scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, regions_in, truth
from ampguard.auditing.reading.tree import argument, receiver
from ampguard.auditing.rules.amp._steps import RUNNERS

_MADE = regex(r"\bGradScaler\(")
_OTHERS = regex(r"\bGradScaler\((?![^)\n]*enabled\s*=\s*False\s*\))")
_HALF = regex(
    r"autocast|\.half\(|torch\.(b?float16|half)\b|amp\.initialize\(|deepspeed|(import|from) accelerate"
    r"|ightning|fabric|custom_fwd"
)
_BFLOAT = regex(r"bfloat16|bf16", re.IGNORECASE)
_PLAIN = regex(r"autocast\((?:(?:device_type\s*=\s*)?['\"]cuda['\"],?\s*)?\)|autocast\([^)\n]*float16")
_SCALING = regex(r"caler\.scale\(")
_SWITCHED = regex(r"autocast\([^)\n]*enabled\s*=\s*(?!True|False)[\w.]")


def scalers_without_half(module: Module) -> Iterator[ast.Call]:
    """Walk the first call that scales, in a project that makes a scaler and computes nothing in float16."""
    if not module.mentions((".scale(",)) or module.mentions(("autocast",)) or module.role in ("test", "benchmark"):
        return
    scaling = [c for c in module.calls_of("scale") if c.args and is_scaler(module, receiver(c))]
    if scaling and module.project.says(_MADE, "GradScaler(") and not module.project.says(_HALF):
        yield min(scaling, key=lambda c: c.lineno)


def scalers_switched_off(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the scalers that are off where no other is made, with the autocast of float16 that they leave unscaled.

    That is one of this file, or some of the project's that a switch turns on or nothing keeps off.
    """
    if module.role in ("test", "benchmark"):
        return
    for call in scaler_constructions(module):
        chosen = any(isinstance(at, ast.If | ast.IfExp) for at in module.tree.above(call))
        if not is_off(module, call) or chosen or _others(module):
            continue
        own = _half_beside(module)
        if own is not None:
            yield call, f"the autocast of line {own.call.lineno} computes in float16"
        elif module.mentions(RUNNERS) or module.project.says(_BFLOAT):
            continue
        elif module.project.says(_SWITCHED, "autocast("):
            yield call, "a switch turns on the autocast of this project"
        elif module.project.says(_PLAIN, "autocast(") and module.project.says(_SCALING, "caler.scale("):
            yield call, "this project autocasts to float16"


def _others(module: Module) -> bool:
    """Whether the project makes a scaler that may be on."""
    if not all(is_off(module, call) for call in scaler_constructions(module)):
        return True
    texts = module.project.texts("GradScaler(")
    return any(_OTHERS.search(text) for path, text in texts if path != module.path and "test" not in path)


def is_off(module: Module, call: ast.Call) -> bool:
    """Whether a scaler is made with `enabled=False`, or with an attribute that is False wherever it is set."""
    flag = argument(call, None, "enabled")
    values = assigned(module, flag) if isinstance(flag, ast.Attribute) else []
    constants = [value.value for value in values if isinstance(value, ast.Constant)]
    return truth(module, flag) is False or (bool(values) and len(constants) == len(values) and not any(constants))


def _half_beside(module: Module) -> Region | None:
    """Return an autocast of a file that scales by itself which is known to compute in float16, at least by choice."""
    regions = (r for r in regions_in(module) if r.enabled is not False and r.device != "cpu")
    return next((r for r in regions if "float16" in r.dtypes), None) if _scales(module) else None


def _scales(module: Module) -> bool:
    return any(c.args and is_scaler(module, receiver(c)) for c in module.calls_of("scale"))
