"""Schedules that move before a backward pass that updates the parameters by itself, with the rate that it is given.

`optimizer.fused_backward(loss, lr)` (LOMO, AdaLomo) is backward pass and step in one.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._schedules.known import asks_for_one, moves
from ampguard.auditing.rules.amp._steps import arms, tests_above

_UPDATES = "fused_backward"


def schedules_before_fused_updates(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the move, the first such update behind it) of one function or loop that held no update before."""
    if not module.mentions((_UPDATES,)):
        return
    updates = sorted(module.calls_of(_UPDATES), key=lambda call: call.lineno)
    for move in moves(module):
        around = _around(module, move)
        beside = [u for u in updates if _around(module, u) is around and not arms(module, move, u)]
        first = beside[0] if beside else None
        if first is None or first.lineno < move.lineno or key(receiver(first)) is None:
            continue
        shared = {ast.unparse(test) for test, _ in tests_above(module, first)}
        if all(asks_for_one(test) or ast.unparse(test) in shared for test, _ in tests_above(module, move)):
            yield move, first


def _around(module: Module, node: ast.AST) -> ast.AST | None:
    """Return the innermost loop around a node, or its function."""
    return next(module.tree.loops(node), None) or module.tree.function(node)
