"""Evaluations and predictions in files that train, before which nothing puts the model into evaluation mode."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._evaluation.hidden_runs import settled_hidden_runs
from ampguard.auditing.rules.amp._evaluation.modes import (
    judged_by_phase,
    judged_in_training,
    models,
    never_judged,
    teachers_never_judged,
    trained_while_judged,
)
from ampguard.auditing.rules.amp._evaluation.predicted_as_fitted import predicted_as_trained
from ampguard.auditing.rules.amp._evaluation.runs import TRAINING_MODE_WANTED, evaluations, source
from ampguard.auditing.rules.amp._evaluation.trained_here import is_trained_here, runs_as_trained
from ampguard.auditing.rules.amp._evaluation.unswitched import judged_by_the_trainer, put_back_only

_LAYERS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


def judged_in_training_mode(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk the evaluations before which nothing calls eval(): the run, the model, a message."""
    told_of: set[str] = set()
    for name, model, run, call in put_back_only(module) if module.role not in ("test", "benchmark") else ():
        told_of.add(name)
        yield run, model, f"{name}() puts {model} back into training mode at line {call.lineno}, but never calls eval()"
    if never_judged(module):
        stated = any(True for _ in module.calls_of(*_LAYERS)) or ".train()" in module.text
        for found in evaluations(module):
            if (
                stated
                or found.model in models(module)
                or (found.gradients_off and is_trained_here(module, found.model))
            ):
                message = f"{found.function.name}() runs {found.model}, and nothing in this file calls eval()"
                yield found.run, found.model, message
        switched = ".train()" in module.text and module.role not in ("test", "benchmark")
        for function, run in settled_hidden_runs(module, models(module)):
            if not switched and not runs_as_trained(module, run):
                continue
            if function.name not in told_of and not TRAINING_MODE_WANTED.search(source(module, function)):
                yield run, "the model", f"{function.name}() judges a model that trains here, and nothing calls eval()"
        known = {found.run for found in evaluations(module)}
        for name, model, run in (
            predicted_as_trained(module) if stated and module.role not in ("test", "benchmark") else ()
        ):
            if run not in known:
                yield run, model, f"{name}() runs {model}, which trains here, and nothing in this file calls eval()"
    else:
        for name, model, run, call in judged_by_the_trainer(module) if module.role not in ("test", "benchmark") else ():
            if name not in told_of:
                yield run, model, f"{name}() runs {model}, and neither it nor line {call.lineno} calls eval()"
    for run, model, branch in judged_by_phase(module) if module.role not in ("test", "benchmark") else ():
        asked = module.segment(branch.test, 40)
        yield run, model, f"{model} is trained here where {asked}, and judged else: in the mode that it trains in"
    for run, model in teachers_never_judged(module) if module.role not in ("test", "benchmark") else ():
        yield run, model, f"{model} teaches without gradients, and nothing in this file calls eval()"
    told = {run for _, run in trained_while_judged(module)}
    for run, model in judged_in_training(module):
        if run in told:
            continue
        yield run, model, f"{model} is judged here in the mode that it trains in: this function never calls eval()"
