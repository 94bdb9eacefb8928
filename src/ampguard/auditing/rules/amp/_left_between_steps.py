"""Trainings that judge their model between two steps, and take the next step in evaluation mode.

`model.train()` stands before the loop, and what the loop calls, itself or through the project, leaves the model in
evaluation mode. A loop that may put it back in any way that is seen or named is left alone.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.calls import Place, attributes, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation import source
from ampguard.auditing.rules.amp._modes import models
from ampguard.auditing.rules.amp._steps import assigned_below, enclosing, tests_above
from ampguard.auditing.rules.amp._trained_here import NAMES_TRAINING

_KEEPS_MODE = re.compile(r"ema|swa|averag|optim|scaler|sched|writer|log(ger)?$|meter|metric", re.IGNORECASE)
"""Objects whose methods are named after updates and steps, and read a model alone."""
_WORDS = (".eval()", ".train(", ".backward(")
_TRAINS = re.compile(r"\.train\(|set_mode|\.training\b|train_mode|eval_mode\b|evaluating\(|eval_context")
_NO_MODEL = re.compile(r"optim|scaler|sched|loss|criterion|^self$", re.IGNORECASE)
_DEPTH = 3
"""Calls followed from a loop into the project."""


@dataclass(frozen=True)
class Done:
    """What a call of a loop does, as far as it can be read: the models it leaves in evaluation mode, and its passes."""

    evaluated: frozenset[str] = frozenset()
    trains: bool = False
    may_put_back: bool = False


def left_between_steps(module: Module) -> Iterator[tuple[ast.Call, str, Loop]]:
    """Walk (the call of a training loop that leaves its model in evaluation mode, the model, the loop), once a loop."""
    if not module.mentions((".eval()", ".backward(")) or not module.mentions((".train(", ".parameters(")):
        return
    told: set[ast.AST] = set()
    for loop in reversed(module.tree.all(ast.For, ast.While)):
        if any(inner in told for inner in walk(loop)) or _TRAINS.search(module.text_of(loop)):
            continue
        found = _left_in(module, loop)
        if found is not None:
            told.add(loop)
            yield *found, loop


def _left_in(module: Module, loop: Loop) -> tuple[ast.Call, str] | None:
    """Return the call behind which a loop takes its next step in evaluation mode, with the model."""
    calls = [n for n in walk_scope(loop) if isinstance(n, ast.Call)]
    trained = {place for place in models(module) if not _NO_MODEL.search(place)}
    if not trained:
        return None
    trained |= {held for place in trained if (held := _alias(module, place, loop))}
    done = {call: _done(module, call, trained, 0) for call in calls}
    steps = [c for c in calls if done[c].trains]
    if not steps or any(d.may_put_back for d in done.values()):
        return None
    first = min(step.lineno for step in steps)
    for call in calls:
        left = done[call].evaluated & in_training(module, loop, trained)
        between = done[call].trains or call.lineno > first or _seldom(module, call)
        if left and between and not leaves(module, call, loop):
            return call, min(left)
    return None


def _alias(module: Module, place: str, loop: Loop) -> str | None:
    """Return the attribute that a name of the loop's function stands for: `model = self.model`."""
    values = module.names.values(place, loop) if place.isidentifier() else []
    held = key(values[0]) if len(values) == 1 else None
    return held if held is not None and held.startswith("self.") else None


def in_training(module: Module, loop: Loop, trained: set[str]) -> set[str]:
    """Return the trained models that the function around a loop does not put into evaluation mode before it."""
    around = enclosing(module, loop)
    before = [c for c in module.calls_of("eval", "train") if enclosing(module, c) is around and c.lineno < loop.lineno]
    last = {key(receiver(c)): called(c) for c in sorted(before, key=lambda c: c.lineno)}
    return {place for place in trained if last.get(place) != "eval"}


def _seldom(module: Module, call: ast.Call) -> bool:
    """Whether a call runs in some passes of its loop alone: `if step % every == 0`."""
    return any("%" in ast.unparse(test) for test, _ in tests_above(module, call))


def is_put_into_training(module: Module, call: ast.Call, model: str, loop: Loop) -> bool:
    """Whether the function around a loop puts the model into training mode before it, and hands it to the call."""
    around = enclosing(module, loop)
    names = {
        place
        for c in module.calls_of("train")
        if c.lineno < loop.lineno and enclosing(module, c) is around and (place := key(receiver(c)))
    }
    given = (receiver(call), *call.args, *(k.value for k in call.keywords))
    handed = model.startswith("self.") or model in map(key, given)
    return handed and any(model in (name, _alias(module, name, loop)) for name in names)


def leaves(module: Module, call: ast.expr, loop: Loop) -> bool:
    """Whether the loop, or its function, ends behind a call."""
    at: ast.AST = module.tree.statement(call)
    while at is not loop and isinstance(at, ast.stmt):
        behind = module.tree.behind(at)
        if any(isinstance(s, ast.Return | ast.Break | ast.Raise) for s in behind):
            return True
        at = module.tree.parents[at]
    return False


def _done(module: Module, call: ast.Call, known: set[str], depth: int) -> Done:
    """Return what a call does to the models of these keys."""
    if called(call) == "backward" and receiver(call) is not None:
        return Done(trains=True)
    if called(call) == "eval" and receiver(call) is not None and not call.args:
        return Done(frozenset({key(receiver(call)) or ""} & known))
    given = [*call.args, *(k.value for k in call.keywords)]
    handed = any(key(a) in known for a in given) or key(receiver(call)) == "self"
    place = target(module, call, _WORDS)
    if place is None:
        return Done(may_put_back=handed and _may_put_back(module, call))
    return _inside(module, call, place, known, depth) if depth < _DEPTH else Done()


def _may_put_back(module: Module, call: ast.Call) -> bool:
    """Whether a call that cannot be read is named after training: what another file defines may be read after all."""
    owner = module.tree.class_of(call)
    own = key(receiver(call)) == "self"
    if own and owner is not None and called(call) in attributes(module, owner):
        return False
    if _KEEPS_MODE.search(key(receiver(call)) or ""):
        return False
    return bool(NAMES_TRAINING.search(called(call))) and target(module, call) is None


def _inside(module: Module, call: ast.Call, place: Place, known: set[str], depth: int) -> Done:
    """Return what a function of the project does, with the models under the caller's keys."""
    where, function = place
    text = source(where, function)
    if _TRAINS.search(text) or _is_left_to_subclasses(function):
        return Done(may_put_back=True)
    names = _names_in(module, call, place, known)
    found = [n for n in walk_scope(function) if isinstance(n, ast.Call)]
    below = [_done(where, c, set(names), depth + 1) for c in found]
    trains = [at for at, d in enumerate(below) if d.trains]
    before = below[: trains[0]] if trains else []
    return Done(
        frozenset(names[name] for d in below for name in d.evaluated),
        bool(trains),
        any(d.may_put_back for d in below) or any(d.evaluated for d in before),  # a step that trains so means it
    )


def _is_left_to_subclasses(function: Function) -> bool:
    """Whether a function is abstract: who knows what is written for it."""
    return isinstance(function.body[-1], ast.Raise) or any(
        "abstract" in ast.unparse(d) for d in function.decorator_list
    )


def _names_in(module: Module, call: ast.Call, place: Place, known: set[str]) -> dict[str, str]:
    """Return the names under which a called function knows the caller's models."""
    where, function = place
    taken = [arg.arg for arg, _ in parameters(function)]
    own = bool(taken) and taken[0] == "self"
    given = dict(zip(taken[own:], call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
    names = {name: held for name, value in given.items() if (held := key(value)) in known and held is not None}
    if own and key(receiver(call)) == "self":
        names |= {held: held for held in known if held.startswith("self.")}
    if where is module:
        local = {"self", *taken, *assigned_below(module, function)}
        names |= {held: held for held in known if held.split(".")[0] not in local}
    for node in walk_scope(function):
        if isinstance(node, ast.Assign) and key(node.value) in names and (held := key(node.targets[0])):
            names[held] = names[key(node.value)]  # type: ignore[index]
    return names
