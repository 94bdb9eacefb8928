"""Binary cross-entropy of probabilities that an autocast of one file reaches through another file.

A region that calls a loss of `losses.py`; a loss that is made in one place, and handed to the function or the object
that computes it in its region.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import Region, region_around, regions_in
from ampguard.auditing.reading.tree import Function, called, key
from ampguard.auditing.rules.amp._precision.bce_calls import (
    WORDS,
    bans,
    computes_bce,
    loss_class,
    makes_loss,
    run_by,
)

_COMPUTED = regex(r"binary_cross_entropy\(|BCELoss\b")
_LOSS = regex(r"loss|crit|bce|cost|objective", re.IGNORECASE)
"""Names under which a loss is handed on; every call that hands something on need not be followed."""


def reached_elsewhere(module: Module) -> Iterator[tuple[ast.Call, Region, Module, ast.Call]]:
    """Walk (the call in a region, the region, the other file, the call of binary cross-entropy there)."""
    if "autocast" not in module.text or not module.project.says(_COMPUTED, *WORDS):
        return
    for call in _in_regions(module):
        region = region_around(module, call)
        if region is None or not bans(region):
            continue
        for place in run_by(module, call, WORDS):
            found = computes_bce(place) if place[0].path != module.path else None
            if found is not None:
                yield call, region, *found
                break


def _in_regions(module: Module) -> list[ast.Call]:
    opened = {r.call for r in regions_in(module)}
    return [c for calls in module.calls.values() for c in calls if opened and c not in opened]


def handed_over(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Walk (the loss that is handed on, where a region computes it) of losses that are made in this file."""
    if not module.project.says(_COMPUTED, *WORDS):
        return
    if not module.mentions(WORDS) and module.project.defined_where(WORDS).isdisjoint(module.calls):
        return  # nothing here can make one: not torch's by its name, no class of a file that computes it
    for calls in module.calls.values():
        for call in calls:
            for given in [*call.args, *(k.value for k in call.keywords)]:
                where = _computed_by(module, call, given) if _is_bce(module, given) else None
                if where is not None:
                    yield given, where


def _is_bce(module: Module, given: ast.expr) -> bool:
    """Whether what is handed on is a loss of probabilities: torch's, or a class of the project that computes it."""
    values: list[ast.expr] = []
    if isinstance(given, ast.Call):
        values = [given] if _LOSS.search(key(given.func) or called(given)) else []
    elif isinstance(given, ast.Name) and _LOSS.search(given.id):
        values = module.names.values(given.id, given)
    return bool(values) and all(makes_loss(module, v) or _of_project(module, v) for v in values)


def _of_project(module: Module, value: ast.expr) -> bool:
    place = loss_class(module, value)
    return place is not None and computes_bce(place) is not None


def _computed_by(module: Module, call: ast.Call, given: ast.expr) -> str | None:
    """Return the place of the region in which the function or the object that is given the loss computes it."""
    place = target(module, call, ("autocast",))
    if place is None:
        return None
    where, function = place
    names = [arg.arg for arg, _ in parameters(function) if argument_for(call, function, arg.arg) is given]
    for use in (use for name in names for use in _uses(where, function, name)):
        region = region_around(where, use)
        if region is not None and bans(region):
            return f"line {region.call.lineno}" + ("" if where.path == module.path else f" of {where.path}")
    return None


def _uses(module: Module, function: Function, name: str) -> Iterator[ast.Call]:
    """Walk the calls of a parameter: in its function, or of the attribute that the constructor keeps it in."""
    own = module.tree.class_of(function)
    given = [n for n in module.tree.all(ast.Assign) if module.tree.function(n) is function and key(n.value) == name]
    kept = {place for n in given for t in n.targets if (place := key(t)) is not None}
    for calls in module.calls.values():
        for call in calls:
            place = key(call.func)
            here = place == name and module.tree.function(call) is function
            if here or (place in kept and own is not None and module.tree.class_of(call) is own):
                yield call
