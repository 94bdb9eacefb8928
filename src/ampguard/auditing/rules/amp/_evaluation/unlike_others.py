"""Evaluations that switch no mode where the others of their file, of the same model, do it themselves.

Each is handed its model under the same name, or holds it in the same class, so each has to switch. One that the file
itself calls, or another file that says `eval()`, may find its model switched and is left alone.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, key, receiver
from ampguard.auditing.rules.amp._evaluation.hidden_runs import settled_hidden_runs
from ampguard.auditing.rules.amp._evaluation.modes import model_of
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, TRAINING_MODE_WANTED, mode_calls, source
from ampguard.auditing.rules.amp._evaluation.runs import evaluations as evaluations_of
from ampguard.auditing.rules.amp._evaluation.unswitched import switched_where_run
from ampguard.auditing.rules.amp._steps import callers

_SAYS = regex(r"\.eval\(|\.train\(|set_mode|eval_mode\b|evaluating\w*\(|functional_call|\.training\b|\w_eval\(")
_JUDGES = regex(r"(^|_)(test|valid|val|eval|infer|predict)", re.IGNORECASE)


def judged_unlike_others(module: Module) -> Iterator[tuple[Function, str, ast.Call, Function]]:
    """Walk (the evaluation, its model, its run, another that switches), for those that switch gradients off."""
    switching = _switching(module) if module.role not in ("test", "benchmark") else {}
    for function, run in _silent(module) if switching else ():
        for place, others in switching.items():
            other = next((o for o in others if _alike(module, o, function, place)), None)
            if other is None or not _runs(run, place):
                continue
            if not callers(module, function) and not switched_where_run(module, function.name, but=module.path):
                yield function, place, run, other
                break


def _switching(module: Module) -> dict[str, list[Function]]:
    """Return the evaluations that put a model into evaluation mode before they run it, by the model's key."""
    found: dict[str, list[Function]] = {}
    for call in mode_calls(module, "eval"):
        function, place = module.tree.function(call), model_of(module, call)
        if function is not None and place not in (None, "self") and not call.args and _JUDGES.search(function.name):
            found.setdefault(place, []).append(function)
    return found


def _silent(module: Module) -> Iterator[tuple[Function, ast.Call]]:
    """Walk the evaluations without gradients that say nothing of a mode, with the call that runs a model."""
    seen = ((e.function, e.run) for e in evaluations_of(module) if e.gradients_off)
    held = {place for c in mode_calls(module, "eval") if (place := key(receiver(c)))}
    for function, run in (*seen, *settled_hidden_runs(module, held)):
        text = source(module, function)
        if not _SAYS.search(text) and not NEEDS.search(text) and not TRAINING_MODE_WANTED.search(text):
            yield function, run


def _alike(module: Module, other: Function, function: Function, place: str) -> bool:
    """Whether two functions get a model in the same way: from their object, or under one name of a parameter."""
    if other is function:
        return False
    if place.startswith("self."):
        owner = module.tree.class_of(other)
        return owner is not None and module.tree.class_of(function) is owner
    return all(any(arg.arg == place for arg, _ in parameters(f)) for f in (other, function))


def _runs(run: ast.Call, place: str) -> bool:
    """Whether a call runs the model, or is handed it."""
    given = (run.func, receiver(run), *run.args, *(k.value for k in run.keywords))
    return any((key(node) or "").split(".forward")[0] == place for node in given)
