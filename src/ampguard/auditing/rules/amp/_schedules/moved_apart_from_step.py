"""Schedules that move by a count of micro-batches of their own, beside a step that waits for an accumulation.

`if n % k == 0: optimizer.step()` and below it `if n % every == 0: scheduler.step()`: the schedule moves in passes in
which the optimizer did not step. Also a move under no such test, in a function that is run once for each micro-batch.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk
from ampguard.auditing.rules.amp._schedules.known import asks_for_one, moves, optimizer_steps
from ampguard.auditing.rules.amp._steps import tests_above

_ACCUMULATES = regex(r"accum|update_freq|iter_size|micro|stride_apply|grad_step|virtual_batch", re.IGNORECASE)
_EPOCHS = regex(r"epoch|\blen\(|num_batches|n_batches", re.IGNORECASE)


def schedules_apart_from_steps(module: Module) -> Iterator[tuple[ast.Call, ast.Call, str]]:
    """Walk (the move, the step beside it, how often the optimizer steps) where the move does not wait for the step."""
    if "%" not in module.text or not _ACCUMULATES.search(module.text):
        return
    for step, _ in optimizer_steps(module):
        tests = [test for test, arm in tests_above(module, step) if arm]
        waits = next(
            (m for test in tests for m in _remainders(test) if _ACCUMULATES.search(ast.unparse(m.right))), None
        )
        if waits is None:
            continue
        for move in moves(module):
            if _is_beside(module, move, step) and _moves_without(module, move, waits):
                yield move, step, ast.unparse(waits.right)


def _remainders(test: ast.expr) -> Iterator[ast.BinOp]:
    """Walk the remainders that a test compares with a number."""
    for node in (test, *walk(test)):
        if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Constant):
            left = node.left
            if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod):
                yield left


def _is_beside(module: Module, move: ast.Call, step: ast.Call) -> bool:
    """Whether both stand in one pass of one function."""
    if module.tree.function(move) is not module.tree.function(step) or module.tree.function(move) is None:
        return False
    return next(module.tree.loops(move), None) is next(module.tree.loops(step), None)


def _moves_without(module: Module, move: ast.Call, waits: ast.BinOp) -> bool:
    """Whether a move waits for another remainder of the same count, and for nothing that speaks of the accumulation."""
    tests = [test for test, _ in tests_above(module, move)]
    words = " ".join(map(ast.unparse, tests))
    divisor, count = ast.unparse(waits.right), ast.unparse(waits.left)
    if _ACCUMULATES.search(words) or _EPOCHS.search(words) or re.search(rf"{re.escape(divisor)}\b", words):
        return False
    others = [r for test in tests for r in _remainders(test)]
    if others:
        return all(ast.unparse(r.left) == count for r in others)
    looped = next(module.tree.loops(move), None) is not None  # the loops of an accumulation are looked at elsewhere
    return not looped and all(map(asks_for_one, tests))
