"""Schedules that move beside one of two ways to step the optimizer: with the scaler, or without it, and not in both."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._schedules.known import moves, optimizer_steps


def schedules_moved_in_one_arm(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the move, the step in the other arm) where nothing else in the file moves the schedule."""
    if not module.mentions(("caler",)):
        return
    for move in moves(module):
        alone = sum(key(receiver(other)) == key(receiver(move)) for other in moves(module)) == 1
        step = _step_without(module, move) if alone else None
        if step is not None:
            yield move, step


def _step_without(module: Module, move: ast.Call) -> ast.Call | None:
    """Return the step of the arm that the move does not stand in, of the optimizer that is stepped beside the move."""
    for branch in module.tree.above(move):
        if not isinstance(branch, ast.If) or not branch.orelse:
            continue
        with_move, without = branch.body, branch.orelse
        if not _holds(module, move, with_move):
            with_move, without = without, with_move
        beside = {place: call for call, place in optimizer_steps(module) if _holds(module, call, with_move)}
        for call, place in optimizer_steps(module):
            if place in beside and _holds(module, call, without) and _one_scaled(module, call, beside[place]):
                return call
    return None


def _one_scaled(module: Module, one: ast.Call, other: ast.Call) -> bool:
    return is_scaler(module, receiver(one)) is not is_scaler(module, receiver(other))


def _holds(module: Module, node: ast.AST, block: list[ast.stmt]) -> bool:
    return any(module.tree.inside(node, statement) for statement in block)
