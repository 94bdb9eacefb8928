"""Trainings that judge their model between two steps, and take the next step in evaluation mode.

`model.train()` stands before the loop, and what the loop calls, itself or through the project, leaves the model in
evaluation mode. A loop that may put it back in any way that is seen or named is left alone.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.done_to_models import CHANGES, TRAINS, done_by, switches_off
from ampguard.auditing.rules.amp._evaluation.modes import models
from ampguard.auditing.rules.amp._evaluation.names_in_calls import is_handed
from ampguard.auditing.rules.amp._evaluation.same_models import bare, held_in_collections, itself, same_models
from ampguard.auditing.rules.amp._order.seldom import every_kth
from ampguard.auditing.rules.amp._steps import enclosing

_NO_MODEL = regex(r"optim|scaler|sched|loss|criterion|^self$", re.IGNORECASE)


def left_between_steps(module: Module) -> Iterator[tuple[ast.Call, str, Loop]]:
    """Walk (the call of a training loop that leaves its model in evaluation mode, the model, the loop), once a loop."""
    if not module.mentions((".eval()", ".backward(")) or not module.mentions((".train(", ".parameters(")):
        return
    told: set[ast.AST] = set()
    for loop in sorted(module.tree.all(ast.For, ast.While), key=lambda loop: -loop.lineno):
        if any(inner in told for inner in walk(loop)) or TRAINS.search(module.text_of(loop)):
            continue
        found = _left_in(module, loop)
        if found is not None:
            told.add(loop)
            yield *found, loop


def _left_in(module: Module, loop: Loop) -> tuple[ast.Call, str] | None:
    """Return the call behind which a loop takes its next step in evaluation mode, with the model."""
    trained = {place for place in models(module) if not _NO_MODEL.search(place)} | itself(module, loop)
    trained |= held_in_collections(module, trained)
    if not trained:
        return None
    names = same_models(module, loop, trained)
    calls = [n for n in walk_scope(loop) if isinstance(n, ast.Call)]
    done = {call: done_by(module, call, set(names)) for call in calls}
    steps = [c for c in calls if done[c].trains]
    if not steps or any(d.may_put_back for d in done.values()):
        return None
    first = min(step.lineno for step in steps)
    wanted = in_training(module, loop, trained)
    for call in calls:
        left = {names[place] for place in done[call].evaluated} & wanted
        between = done[call].trains or call.lineno > first or every_kth(module, call, loop) is not None
        if left and between and not leaves(module, call, loop):
            return call, min(left)
    return None


def in_training(module: Module, loop: Loop, trained: set[str]) -> set[str]:
    """Return the trained models that the function around a loop does not put into evaluation mode before it."""
    around = enclosing(module, loop)
    names = same_models(module, loop, trained)
    before = [c for c in module.calls_of("eval", "train") if enclosing(module, c) is around and c.lineno < loop.lineno]
    last = {names.get(bare(receiver(c)) or ""): switches_off(c) for c in sorted(before, key=lambda c: c.lineno)}
    return {place for place in trained if not last.get(names[place])}


def is_put_into_training(module: Module, call: ast.Call, model: str, loop: Loop) -> bool:
    """Whether the function around a loop puts the model into training mode before it, and hands it to the call."""
    around = enclosing(module, loop)
    names = same_models(module, loop, {model})
    put = (c for c in module.calls_of("train") if c.lineno < loop.lineno and enclosing(module, c) is around)
    if not any(bare(receiver(c)) in names for c in put):
        return False
    if any(name.split(".")[0] == "self" for name in names):
        return True
    return is_handed(module, call, target(module, call, CHANGES), set(names))


def leaves(module: Module, call: ast.expr, loop: Loop) -> bool:
    """Whether the loop, or its function, ends behind a call."""
    at: ast.AST = module.tree.statement(call)
    while at is not loop and isinstance(at, ast.stmt):
        behind = module.tree.behind(at)
        if any(isinstance(s, ast.Return | ast.Break | ast.Raise) for s in behind):
            return True
        at = module.tree.parents[at]
    return False
