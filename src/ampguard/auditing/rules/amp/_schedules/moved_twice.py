"""Schedules that move more than once for what they count: in the loop over batches and once more behind it."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, key, receiver, walk_scope
from ampguard.auditing.rules.amp._schedules.known import moves, optimizer_steps, own_tests, runs_another
from ampguard.auditing.rules.amp._steps import arms


def schedules_moved_twice(module: Module) -> Iterator[tuple[ast.Call, int]]:
    """Walk the moves in a loop behind another move of the same schedule that each of its passes has made already.

    Each comes with the line of that other move, or of the call that leads to it.
    """
    for move in moves(module):
        loop, place = next(module.tree.loops(move), None), key(receiver(move))
        if loop is None or place is None or own_tests(module, move, loop):
            continue
        first = _moved_below(module, move, loop, place) or _moved_by_call(module, move, loop, place)
        if first is not None:
            yield move, first.lineno


def _moved_below(module: Module, move: ast.Call, loop: Loop, place: str) -> ast.Call | None:
    """Return another move in the loop, above: in the same pass, or at each pass of an inner loop that trains."""
    for other in moves(module):
        if other is move or key(receiver(other)) != place or not module.tree.inside(other, loop):
            continue
        inner = next(module.tree.loops(other), None)
        if inner is None or other.lineno > move.lineno or own_tests(module, other, loop) or arms(module, other, move):
            continue
        if module.tree.function(other) is not module.tree.function(move) or _made_anew(loop, place):
            continue
        if inner is loop or any(module.tree.inside(step, inner) for step, _ in optimizer_steps(module)):
            return other
    return None


def _made_anew(loop: Loop, place: str) -> bool:
    """Whether the name stands for another schedule somewhere in the loop."""
    stores = (n for n in walk_scope(loop) if isinstance(n, ast.Name | ast.Attribute) and isinstance(n.ctx, ast.Store))
    return any(key(n) == place for n in stores)


def _moved_by_call(module: Module, move: ast.Call, loop: Loop, place: str) -> ast.Call | None:
    """Return a call in the same loop that runs a function which moves the schedule itself."""
    for call in (n for statement in loop.body for n in (statement, *walk_scope(statement))):
        if not isinstance(call, ast.Call) or call is move or next(module.tree.loops(call), None) is not loop:
            continue
        given = any(key(g) == place for g in (*call.args, *(k.value for k in call.keywords)))
        own = place.startswith("self.") and key(receiver(call)) == "self"
        if (given or own) and not arms(module, call, move) and not own_tests(module, call, loop):
            inner = runs_another(module, call, place)
            if inner is not None:
                return call
    return None
