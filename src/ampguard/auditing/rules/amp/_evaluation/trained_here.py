"""Whether what an evaluation runs is run by code of the same file that trains."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key
from ampguard.auditing.rules.amp._evaluation.modes import runs
from ampguard.auditing.rules.amp._evaluation.runs import source
from ampguard.auditing.rules.amp._steps import callers, enclosing

NAMES_TRAINING = regex(r"train|fit|epoch|step|update|optimi|(?<![a-z])mode(?!l)", re.IGNORECASE)


def is_trained_here(module: Module, model: str) -> bool:
    """Whether a function of the file runs the model of that key, itself or by a helper, and a backward pass."""
    around = {enclosing(module, c) for c in module.calls.get("backward", ())}
    places = {enclosing(module, run) for run in runs(module, model)}
    helpers = (c for p in places if isinstance(p, FUNCTIONS) for c in callers(module, p))
    return bool(places & around) or any(enclosing(module, c) in around for c in helpers)


def runs_as_trained(module: Module, run: ast.Call) -> bool:
    """Whether code that trains runs the very method that an evaluation runs."""
    around = {enclosing(module, c) for c in module.calls.get("backward", ())}
    same = (c for c in module.calls_of(called(run)) if key(c.func) == key(run.func) and c is not run)
    return module.role not in ("test", "benchmark") and any(enclosing(module, c) in around for c in same)


def training_calls(module: Module) -> list[ast.Call]:
    """Return the calls, in loops, of functions of the file that train."""
    return [
        call
        for name, calls in module.calls.items()
        if NAMES_TRAINING.search(name)
        for call in calls
        if any(True for _ in module.tree.loops(call))
        and (place := target(module, call, (".backward(",))) is not None
        and ".backward(" in source(*place)
    ]
