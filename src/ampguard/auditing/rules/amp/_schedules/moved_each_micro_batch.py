"""Schedules that move at every micro-batch, where the optimizer steps once in k."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation, accumulations
from ampguard.auditing.rules.amp._schedules.known import asks_for_one, moves


def schedules_of_micro_batches(module: Module) -> Iterator[tuple[ast.Call, Accumulation]]:
    """Walk the moves in the loop of an accumulation that stand under no test of their own beside the step's."""
    if "backward" not in module.text:
        return
    for found in accumulations(module):
        test = found.test
        if test is None:
            continue
        for call in moves(module):
            if module.tree.inside(call, found.loop) and _each_time(module, call, found, test):
                yield call, found


def _each_time(module: Module, call: ast.Call, found: Accumulation, test: ast.If) -> bool:
    """Whether a move runs at every pass: beside the test of the step, or before the one that skips the step."""
    if module.tree.function(call) is not module.tree.function(found.step) or module.tree.inside(call, test):
        return False
    skips = not module.tree.inside(found.step, test) and module.tree.function(test) is module.tree.function(call)
    if skips and call.lineno > test.lineno:
        return False
    for above in module.tree.above(call):
        if above is found.loop:
            return True
        if isinstance(above, ast.For) and "sched" in ast.unparse(above.iter).lower():
            continue  # over the schedules of one step
        if isinstance(above, ast.For | ast.While | ast.Try | ast.IfExp):
            return False
        if isinstance(above, ast.If) and not asks_for_one(above.test):
            return False
    return False
