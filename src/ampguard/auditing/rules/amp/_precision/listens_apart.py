"""An autocast that is fp16 or not by a setting of which the scaler knows nothing, in its own file or in a model's."""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, flag_words, regions_in, truth
from ampguard.auditing.reading.tree import argument
from ampguard.auditing.rules.amp._steps import tests_above

_FLAGGED = regex(r"GradScaler\((?:[^()\n]|\([^()\n]*\))*\benabled\s*=\s*(?!True|False)[\w.\[\]'\"]+")
_UNFLAGGED = regex(r"GradScaler\((?!(?:[^()\n]|\([^()\n]*\))*\benabled\s*=)")
_OF_NO_MEANING = frozenset({"float16", "float32", "half", "float", "torch", "str"})


def half_by_a_setting(module: Module) -> Iterator[tuple[ast.Call, Region]]:
    """Walk (the scaler, the autocast) where a setting makes the autocast fp16 or fp32, and the scaler asks another."""
    regions = regions_in(module)
    scalers = [s for s in scaler_constructions(module) if truth(module, argument(s, None, "enabled")) is not False]
    either = [r for r in regions if r.dtypes == {"float16", "float32"} and r.enabled is not False]
    if len(scalers) != 1 or not either or len(either) != len(regions):
        return
    if any(k.arg is None for k in scalers[0].keywords):
        return
    flags = [argument(scalers[0], None, "enabled"), *(test for test, _ in tests_above(module, scalers[0]))]
    asked = frozenset[str]().union(*(flag_words(module, flag) for flag in flags))
    chosen = flag_words(module, argument(either[0].call, 1, "dtype")) - _OF_NO_MEANING
    if chosen and not chosen & asked:
        yield scalers[0], either[0]


def on_in_a_model(module: Module) -> Iterator[ast.Call]:
    """Walk the autocasts around a `forward` that are always on, in projects whose scalers all have a switch."""
    if module.mentions(("Scaler",)) or not module.mentions(("def forward",)):
        return
    for region in regions_in(module):
        function = _forward_around(module, region.call)
        if function is None or region.enabled is not True or any(tests_above(module, region.call)):
            continue
        if not {"float16", "unknown"} & region.dtypes or argument(region.call, None, "enabled") is not None:
            continue
        if module.project.says(_FLAGGED, "Scaler(") and not module.project.says(_UNFLAGGED, "Scaler("):
            yield region.call


def _forward_around(module: Module, call: ast.Call) -> ast.AST | None:
    """Return the `forward` that a call decorates or opens a region in."""
    above = module.tree.parents.get(call)
    function = above if isinstance(above, ast.FunctionDef) else module.tree.function(call)
    return function if function is not None and function.name == "forward" else None
