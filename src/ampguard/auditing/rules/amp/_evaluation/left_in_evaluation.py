"""Training loops that put their model into evaluation mode after a step and have no `.train()` in them at all.

The switch stands in the loop, or in a function or method that it calls; where one of those cannot be read, the loop is
left alone, or to `_left_between_steps`.
"""

import ast

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, attributes, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.left_between_steps import in_training
from ampguard.auditing.rules.amp._evaluation.modes import models
from ampguard.auditing.rules.amp._evaluation.runs import mode_calls, run_model, source
from ampguard.auditing.rules.amp._evaluation.trained_here import NAMES_TRAINING
from ampguard.auditing.rules.amp._steps import enclosing

_TRAINS = regex(r"\.train\(|set_mode|\.training\s*=|train_mode")


def switch_in(module: Module, loop: Loop, backward: ast.Call) -> tuple[ast.expr, str] | None:
    """Return where a training loop puts its model into evaluation mode for good, with a message; None if it does not.

    What cannot be seen into, and anything that says `.train(`, counts as putting it back.
    """
    lines = module.text_of(loop)
    if _TRAINS.search(lines):
        return None
    place = target(module, backward)
    if place is not None and (_TRAINS.search(source(*place)) or ".eval()" in source(*place)):
        return None  # training that switches to evaluation mode by itself means it
    trained = _trained(module, loop) if place is None else _trained_by(module, backward, place)
    around = enclosing(module, loop)
    for call in mode_calls(module, "eval"):
        model = key(receiver(call))
        if not module.tree.inside(call, loop) or model not in trained or call.lineno <= backward.lineno:
            continue
        if any(
            c.lineno < backward.lineno and enclosing(module, c) is around for c in mode_calls(module, "eval", model)
        ):
            continue  # it is in evaluation mode from the start, which is meant
        if not any(_puts_back(module, c) for c in _calls_with(module, loop, {model})):
            return call, f"{model} stays in evaluation mode: the loop at line {loop.lineno} never calls {model}.train()"
    trained = in_training(module, loop, trained)
    return _switch_in_callee(module, loop, backward, trained) or _switch_in_method(module, loop, backward, trained)


def _puts_back(module: Module, call: ast.Call) -> bool:
    """Whether a call that is handed the model may put it into training mode."""
    place = target(module, call)
    return bool(_TRAINS.search(source(*place)) if place is not None else NAMES_TRAINING.search(called(call)))


def _trained_by(module: Module, call: ast.Call, place: Place) -> set[str]:
    """Return the keys of the models that a training function works on: what it is handed, what its object holds."""
    held = {k for node in walk_scope(place[1]) if (k := run_model(node)) and k.startswith("self.")}
    given = {k for a in (*call.args, *(k.value for k in call.keywords)) if (k := key(a))}
    same = receiver(call) is not None and key(receiver(call)) == "self"
    return (given | (held if same else set())) & models(module)


def _switch_in_callee(module: Module, loop: Loop, backward: ast.Call, trained: set[str]) -> tuple[ast.expr, str] | None:
    """Return the call whose function leaves the model in evaluation mode, where every such function can be read."""
    calls = [(c, target(module, c)) for c in _calls_with(module, loop, trained)]
    if any(place is None or _TRAINS.search(source(*place)) for _, place in calls):
        return None
    for call, place in calls:
        given = _parameter_of(place, call, trained)
        if place is not None and given and call.lineno > backward.lineno and f"{given}.eval()" in source(*place):
            return call, f"{called(call)}() leaves {given} in evaluation mode, and the loop never calls train()"
    return None


def _switch_in_method(module: Module, loop: Loop, backward: ast.Call, trained: set[str]) -> tuple[ast.expr, str] | None:
    """Return the call of an own method that leaves `self.model` in evaluation mode, in a class that never trains it."""
    owner = module.tree.class_of(loop)
    if owner is None or _TRAINS.search(module.text_of(owner)):
        return None
    calls = [node for node in walk(loop) if isinstance(node, ast.Call) and key(receiver(node)) == "self"]
    held = attributes(module, owner)  # `self.net(x)` runs what the object holds, no method
    places = [(c, target(module, c)) for c in calls if c in module.tree.parents and called(c) not in held]
    if any(place is None for _, place in places):
        return None
    for call, place in places:
        for model in sorted(trained) if place is not None and call.lineno > backward.lineno else ():
            if place is not None and model.startswith("self.") and f"{model}.eval()" in source(*place):
                return call, f"{called(call)}() leaves {model} in evaluation mode, and nothing calls train() again"
    return None


def _trained(module: Module, loop: Loop) -> set[str]:
    """Return the keys that the loop calls as models, or hands on, and that the file trains."""
    ours = models(module)
    calls = [node for node in walk(loop) if isinstance(node, ast.Call)]
    found = {p for c in calls for p in (run_model(c), *(key(a) for a in c.args)) if p in ours}
    return {p for p in found if p is not None}


def _calls_with(module: Module, loop: Loop, trained: set[str]) -> list[ast.Call]:
    """Return the calls in the loop that are handed a trained model."""
    calls = [node for node in walk(loop) if isinstance(node, ast.Call)]
    return [c for c in calls if c in module.tree.parents and any(key(a) in trained for a in c.args)]


def _parameter_of(place: Place | None, call: ast.Call, trained: set[str]) -> str:
    """Return the name under which the called function knows the trained model."""
    names = [a.arg for a in place[1].args.args if a.arg != "self"] if place is not None else []
    return next((n for n, a in zip(names, call.args, strict=False) if key(a) in trained), "")
