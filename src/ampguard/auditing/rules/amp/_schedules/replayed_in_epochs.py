"""Schedules that a resumed run moves once for each epoch that is past, although training moves them at each batch.

`for _ in range(start_epoch): scheduler.step()` comes to the batch of that number: a resumed run goes on with the
learning rate of its first minutes.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver
from ampguard.auditing.rules.amp._schedules.known import asks_for_one, goes_over_batches, moves, own_tests

_EPOCHS = regex(r"epoch", re.IGNORECASE)
_BATCHES = regex(r"\blen\b|batch|step|iter|loader|\*", re.IGNORECASE)


def schedules_replayed_in_epochs(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the move that is run for each epoch that is past, the move of the same schedule at each batch)."""
    found = moves(module) if module.mentions(("epoch",)) else []
    for move in found:
        loop = next(module.tree.loops(move), None)
        if loop is None or not _counts_past_epochs(loop) or not all(map(_only_moves, loop.body)):
            continue
        by_batch = next((other for other in found if _moves_by_batch(module, other, move)), None)
        if by_batch is not None:
            yield move, by_batch


def _counts_past_epochs(loop: Loop) -> bool:
    """Whether a loop runs as often as there are epochs before the one that a run starts at."""
    over = loop.iter if isinstance(loop, ast.For) else None
    if not isinstance(over, ast.Call) or called(over) != "range":
        return False
    text = ast.unparse(over).removeprefix("range")
    return bool(_EPOCHS.search(text)) and not _BATCHES.search(text)


def _only_moves(statement: ast.stmt) -> bool:
    """Whether a statement does no more than to move a schedule where there is one."""
    if isinstance(statement, ast.If):
        return asks_for_one(statement.test) and not statement.orelse and all(map(_only_moves, statement.body))
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and called(call) == "step"


def _moves_by_batch(module: Module, other: ast.Call, move: ast.Call) -> bool:
    """Whether another move of the same schedule runs at each pass of a loop over batches."""
    place, loop = key(receiver(move)), next(module.tree.loops(other), None)
    if place is None or key(receiver(other)) != place or loop is None or not goes_over_batches(loop):
        return False
    scope = module.tree.class_of if place.startswith("self.") else module.tree.function
    return scope(other) is scope(move) and not own_tests(module, other, loop)
