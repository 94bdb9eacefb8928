"""Schedules that move before the first step of their loop, so that their first value is never used."""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, key, receiver

Move = tuple[ast.Call, ast.Call]
"""A call that moves a schedule, and the first step behind it."""


def schedules_moved_first(module: Module) -> Iterator[Move]:
    """Walk the moves of a schedule that come before every step of the loop they stand in, with the first such step.

    Under no test but one of the schedule itself: `if epoch > 0:` holds the first move back.
    """
    for _, ops in skeletons(module):
        found = list(events(ops))
        for event in (e for e in found if e.kind == "scheduler step"):
            move = event.node
            loop = next(module.tree.loops(move), None)
            if not isinstance(move, ast.Call) or loop is None or move.args or move.keywords or event.stack:
                continue
            steps = [e.stack[0][1] if e.stack else e.node for e in found if e.kind in ("step", "scaler step")]
            inside = sorted((s for s in steps if module.tree.inside(s, loop)), key=lambda s: getattr(s, "lineno", 0))
            before = not inside or getattr(inside[0], "lineno", 0) < move.lineno
            if before or _tested(module, move, loop) or not isinstance(inside[0], ast.Call):
                continue
            yield move, inside[0]


def _tested(module: Module, move: ast.Call, loop: Loop) -> bool:
    """Whether a move stands under a test inside its loop, other than one whether there is a schedule."""
    schedule = key(receiver(move)) or ""
    for above in module.tree.above(move):
        if above is loop:
            return False
        asks = above.test if isinstance(above, ast.If | ast.IfExp | ast.While) else None
        if asks is not None and ast.unparse(asks) not in (schedule, f"{schedule} is not None"):
            return True
    return True
