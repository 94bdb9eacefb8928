"""Plain backward passes of a loss from an autocast of float16, in a function that scales another loss.

Each has an optimizer of its own, so nothing is mixed; but the gradients of the plain one underflow in float16.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, region_around
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._steps import backward_calls, enclosing, loss_of, tests_above


def plain_beside_scaled(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the plain backward pass, the call that scales) of functions, both under the same tests."""
    scaling = [c for c in module.calls.get("scale", ()) if c.args and is_scaler(module, receiver(c))]
    for backward in backward_calls(module) if scaling else ():
        loss, scaled = loss_of(module, backward)
        place = key(loss)
        if scaled or not isinstance(loss, ast.Name) or "scal" in loss.id.lower():
            continue
        around, tests = enclosing(module, backward), list(tests_above(module, backward))
        beside = [c for c in scaling if enclosing(module, c) is around and list(tests_above(module, c)) == tests]
        beside = [c for c in beside if key(c.args[0]) not in (None, place)]
        if not beside or not _stepped_plainly(module, backward):
            continue
        if any(_is_half(region_around(module, v)) for v in module.names.values(loss.id, loss)):
            yield backward, beside[0]


def _stepped_plainly(module: Module, backward: ast.Call) -> bool:
    """Whether an optimizer behind a backward pass is stepped past the scaler."""
    around = enclosing(module, backward)
    steps = (c for c in module.calls.get("step", ()) if not c.args and c.lineno > backward.lineno)
    return any(enclosing(module, c) is around and is_optimizer(module, receiver(c)) for c in steps)


def _is_half(region: Region | None) -> bool:
    return region is not None and region.enabled is not False and "float16" in region.dtypes
