"""Lists of measured spans of time: their sum, mean or median is as near to zero as the spans are."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.counters import grown_in
from ampguard.auditing.reading.measures import span
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver

_REDUCED = frozenset({"sum", "min", "max"})
_STATISTICS = frozenset({"statistics.median", "statistics.mean", "statistics.fmean"})


def spans_of(module: Module, node: ast.Call) -> str | None:
    """Return what `sum(durations)` or `statistics.median(durations)` measures: spans of time; None for another call."""
    if len(node.args) != 1 or not (_plainly_reduced(node) or _STATISTICS & set(module.names.dotted(node.func))):
        return None
    place = key(node.args[0])
    if place is None:
        return None
    for change in grown_in(module, module.tree.scope(node), place):
        value = change.args[0] if isinstance(change, ast.Call) and called(change) == "append" and change.args else None
        how = _span(module, value) if value is not None else None
        if how is not None:
            return f"made of what line {value.lineno} appends, {how}"  # type: ignore[union-attr]
    return None


def _plainly_reduced(node: ast.Call) -> bool:
    return receiver(node) is None and called(node) in _REDUCED


def _span(module: Module, value: ast.expr) -> str | None:
    values = assigned(module, value) if isinstance(value, ast.Name) else [value]
    return next((how for v in values if (how := span(module, v)) is not None), None)
