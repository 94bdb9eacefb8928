"""Autocast regions that name no dtype, in functions that choose between float16 and bfloat16.

On CUDA such a region computes in float16 whatever was chosen; a scaler that is on for float16 alone does not scale it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import autocast_of
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import dtypes_of
from ampguard.auditing.reading.tree import called, walk
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_BOTH = frozenset({"float16", "bfloat16"})


def dtype_left_out(module: Module) -> Iterator[tuple[ast.Call, ast.Name]]:
    """Walk (the autocast, the name that may be bfloat16) of regions that a test of that name opens."""
    if "bfloat16" not in module.text or module.mentions(("set_autocast_gpu_dtype", "set_autocast_dtype")):
        return
    for block in module.tree.all(ast.With) if "autocast" in module.text else ():
        for item in block.items:
            call = item.context_expr
            if not isinstance(call, ast.Call) or not _opens_plainly(module, call):
                continue
            chosen = next((n for n in _asked_names(module, call) if _may_be_both(module, n)), None)
            if chosen is not None:
                yield call, chosen


def _opens_plainly(module: Module, call: ast.Call) -> bool:
    """Whether a call opens an autocast for CUDA and says nothing of its dtype."""
    named = [k.arg for k in call.keywords]
    cuda = all(isinstance(a, ast.Constant) and a.value == "cuda" for a in call.args)
    if not cuda or len(call.args) > 1 or "dtype" in named or None in named:
        return False
    values = assigned(module, call.func)
    if any("dtype=" in ast.unparse(v) for v in values):
        return False
    return autocast_of(module, call) is call or any(_is_class(v) for v in values)


def _is_class(value: ast.expr) -> bool:
    """Whether a value is the class of autocast, or a choice between it and something else."""
    parts = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
    return any(isinstance(p, ast.Name | ast.Attribute) and ast.unparse(p).split(".")[-1] == "autocast" for p in parts)


def _asked_names(module: Module, call: ast.Call) -> Iterator[ast.Name]:
    """Walk the names in what switches a region: its flag, the tests around it, the choice of its class."""
    flags = [k.value for k in call.keywords if k.arg == "enabled"] + [
        t for t, inside in tests_above(module, call) if inside
    ]
    flags += [v.test for v in assigned(module, call.func) if isinstance(v, ast.IfExp)]
    for flag in flags:
        yield from (n for n in walk(flag) if isinstance(n, ast.Name))


def _may_be_both(module: Module, name: ast.Name) -> bool:
    around = enclosing(module, name)
    values = [v for v in assigned(module, name) if module.tree.inside(v, around)]
    found = frozenset().union(*(dtypes_of(module, v) for v in values)) if values else frozenset()
    return found >= _BOTH and not any(isinstance(v, ast.Call) and called(v) == "is_bf16_supported" for v in values)
