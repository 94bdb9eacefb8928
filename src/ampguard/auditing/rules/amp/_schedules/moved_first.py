"""Schedules that move before the first step of their loop, so that their first value is never used."""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._schedules.held_from_the_start import holds_at_once
from ampguard.auditing.rules.amp._steps import arms, tests_above

Move = tuple[ast.Call, ast.Call]
"""A call that moves a schedule, and the first step behind it."""


def schedules_moved_first(module: Module) -> Iterator[Move]:
    """Walk the moves of a schedule that come before every step of the loop they stand in, with the first such step.

    Under no test but one of the schedule itself, or one that the step stands under too: `if epoch > 0:` holds the first
    move back. Outside of loops, a move right before the step in one block.
    """
    for _, ops in skeletons(module):
        found = list(events(ops))
        steps = [e.stack[0][1] if e.stack else e.node for e in found if e.kind in ("step", "scaler step")]
        for event in (e for e in found if e.kind == "scheduler step" and _always_moves(e)):
            move = event.stack[0][1] if event.stack else event.node
            if not isinstance(move, ast.Call) or move in steps:
                continue
            around = _around(module, move, steps)
            if around is None:
                continue
            inside = [s for s in steps if module.tree.inside(s, around) and not arms(module, s, move)]
            inside = [s for s in inside if _line(s) > move.lineno or not leaves(module, s, around)]
            first = min(inside, key=_line, default=None)
            if not isinstance(first, ast.Call) or first.lineno <= move.lineno:
                continue
            if not held_back(module, move, first, around):
                yield move, first


def _always_moves(event: Event) -> bool:
    """Whether a schedule moves by one, and under no test of the functions that lead to it."""
    move = event.node
    if not isinstance(move, ast.Call) or move.args or move.keywords:
        return False
    inner = [*event.stack[1:], (event.module, move)] if event.stack else []
    if inner and next(event.stack[0][0].tree.loops(event.stack[0][1]), None) is None:
        return False
    return not any(any(tests_above(where, node)) or _may_leave(where, node) for where, node in inner)


def _may_leave(module: Module, node: ast.AST) -> bool:
    """Whether a function may have left before it comes to a node, or takes a step of its own."""
    function = module.tree.function(node)
    below = list(walk_scope(function)) if function is not None else []
    if any(isinstance(n, ast.Call) and called(n) in ("backward", "zero_grad") for n in below):
        return True
    return any(isinstance(n, ast.Return | ast.Raise) and n.lineno < _line(node) for n in below)


def _around(module: Module, move: ast.Call, steps: list[ast.AST]) -> ast.AST | None:
    """Return the innermost loop around a move that steps; outside of loops, its block's statement or function."""
    loops = list(module.tree.loops(move))
    stepping = (loop for loop in loops if any(module.tree.inside(s, loop) for s in steps))
    return next(stepping, None) if loops else _block(module, move)


def _block(module: Module, move: ast.Call) -> ast.AST:
    """Return what holds the block of a move; an `if` around it that asks no more than for the schedule is passed by."""
    above = module.tree.parents[module.tree.statement(move)]
    while isinstance(above, ast.If) and not above.orelse and _asks_what_it_is(ast.unparse(above.test), _of(move)):
        above = module.tree.parents[above]
    return above


def _of(move: ast.Call) -> str:
    return key(receiver(move)) or ""


def leaves(module: Module, node: ast.AST, around: ast.AST) -> bool:
    """Whether what follows a node in its block leaves the loop or the pass, so that nothing behind runs after it."""
    at: ast.AST = module.tree.statement(node)
    while at is not around and module.tree.parents[at] is not around:
        above = module.tree.parents[at]
        blocks = [getattr(above, name, None) for name in ("body", "orelse", "finalbody")]
        block = next((b for b in blocks if isinstance(b, list) and at in b), [])
        if block and isinstance(block[-1], ast.Break | ast.Continue | ast.Return | ast.Raise):
            return True
        at = above
    return False


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def held_back(module: Module, move: ast.Call, step: ast.Call, around: ast.AST) -> bool:
    """Whether a move stands under a test that may keep it from running before the step that follows it."""
    below: ast.AST = move
    for above in module.tree.above(move):
        if above is around:
            return False
        asks = above.test if isinstance(above, ast.If | ast.IfExp | ast.While) else None
        shared = isinstance(above, ast.If) and any(module.tree.inside(step, s) for s in _arm(above, below))
        of_schedule = asks is not None and _asks_what_it_is(ast.unparse(asks), _of(move))
        if asks is not None and not shared and not of_schedule and not holds_at_once(module, asks, above):
            return True
        below = above
    return True


def _asks_what_it_is(test: str, schedule: str) -> bool:
    """Whether a test asks whether there is a schedule, or of which kind it is."""
    kinds = (f"isinstance({schedule},", f"not isinstance({schedule},")
    return test in (schedule, f"{schedule} is not None") or (test.startswith(kinds) and " and " not in test)


def _arm(branch: ast.If, inside: ast.AST) -> list[ast.stmt]:
    return branch.body if inside in branch.body else branch.orelse
