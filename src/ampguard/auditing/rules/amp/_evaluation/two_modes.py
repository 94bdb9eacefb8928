"""One function that trains or judges as a flag says: `model.train() if training else model.eval()`, one loop for both.

Known by its modes (the two arms of a test, or `model.train(training)`) and by its backward pass, which only the flag
allows. The forward pass runs for both.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, key, receiver
from ampguard.auditing.rules.amp._evaluation.runs import looped, off_around, run_model, source
from ampguard.auditing.rules.amp._steps import callers, tests_above


@dataclass(frozen=True)
class TwoModes:
    """A model's run that a flag makes a training or an evaluation, and where the flag sets the mode."""

    run: ast.Call
    model: str
    switch: ast.Call


def recorded_in_two_modes(module: Module) -> Iterator[TwoModes]:
    """Walk the runs that record for a backward pass which their flag forbids half of the time."""
    for switch in module.calls_of("train"):
        function = module.tree.function(switch)
        flag = _flag(module, switch) if function is not None else None
        if function is None or flag is None or "set_grad_enabled" in source(module, function):
            continue
        model = key(receiver(switch)) or ""
        run = _run(module, function, model, flag)
        if run is not None and _trains_if(module, function, flag) and not _off_by_callers(module, function):
            yield TwoModes(run, model, switch)


def _flag(module: Module, switch: ast.Call) -> str | None:
    """Return the flag of `model.train(flag)`, or of `if flag: model.train()` with `model.eval()` in the other arm."""
    model = key(receiver(switch))
    given = [*switch.args, *(k.value for k in switch.keywords)]
    if model is None:
        return None
    if given:
        return key(given[0])
    statement = module.tree.statement(switch)
    branch = module.tree.parents.get(statement)
    if not isinstance(branch, ast.If) or statement not in branch.body:
        return None
    judges = any(f"{model}.eval()" in ast.unparse(item) for item in branch.orelse)
    return ast.unparse(branch.test) if judges else None


def _run(module: Module, function: Function, model: str, flag: str) -> ast.Call | None:
    """Return the first run of the model in a loop, with gradients on in both modes."""
    calls = (c for calls in module.calls.values() for c in calls if module.tree.function(c) is function)
    runs = sorted((c for c in calls if run_model(c) == model), key=lambda c: c.lineno)
    for run in runs:
        asked = any(_mentions(test, flag) for test, _ in tests_above(module, run))
        if looped(module, run) and not asked and not off_around(module, run):
            return run
    return None


def _trains_if(module: Module, function: Function, flag: str) -> bool:
    backward = [c for c in module.calls.get("backward", ()) if module.tree.function(c) is function]
    return bool(backward) and all(any(_mentions(t, flag) for t, _ in tests_above(module, c)) for c in backward)


def _mentions(test: ast.expr, flag: str) -> bool:
    return flag in ast.unparse(test)


def _off_by_callers(module: Module, function: Function) -> bool:
    """Whether a caller switches gradients off around the call, as it would for the evaluation."""
    return any(off_around(module, call) for call in callers(module, function))
