"""Loops that take their batches by `next(batches)` and leave where there is none: `except StopIteration: break`."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, walk
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation


def ends_with_its_batches(module: Module, found: Accumulation, count_of: ast.expr) -> bool:
    """Whether a `while True` ends where its iterator does, and counts its batches from a number set right before it."""
    loop = found.loop
    if not isinstance(loop, ast.While) or not isinstance(loop.test, ast.Constant):
        return False
    if "StopIteration" not in module.text or not _is_left_at_the_end(loop):
        return False
    left = (n.left for n in walk(count_of) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod))
    counters = {key(n) for side in left for n in walk(side) if isinstance(n, ast.Name)}
    block = module.tree.parents[loop]
    starts = (n for n in module.tree.all(ast.Assign) if module.tree.parents[n] is block and n.lineno < loop.lineno)
    return any(key(n.targets[0]) in counters and isinstance(n.value, ast.Constant) for n in starts)


def _is_left_at_the_end(loop: Loop) -> bool:
    return any(
        any(isinstance(n, ast.Call) and called(n) == "next" for s in attempt.body for n in walk(s))
        for attempt, handler in _handlers(loop)
        if "StopIteration" in ast.unparse(handler.type or attempt)
        and isinstance(handler.body[-1], ast.Break | ast.Return)
    )


def _handlers(loop: Loop) -> Iterator[tuple[ast.Try, ast.ExceptHandler]]:
    for attempt in walk(loop):
        if isinstance(attempt, ast.Try):
            yield from ((attempt, handler) for handler in attempt.handlers)
