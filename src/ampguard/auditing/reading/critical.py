"""Where critical operations stand: what a block runs itself, and what the project's functions run for it.

Critical operations are those of `kinds.critical_operation`. A helper is read two calls deep; an operation whose
errors the helper itself swallows does not count for its callers.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.handlers import catch_of
from ampguard.auditing.reading.kinds import critical_operation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, walk_scope

_DEPTH = 2
"""Calls followed from a block into the project. Chosen: `fit` -> `step` is as deep as a message stays clear."""


@dataclass(frozen=True)
class Critical:
    """A critical operation that a block runs.

    Attributes:
        operation: As `kinds.critical_operation` names it.
        call: The call in the block: the operation itself, or the call of a helper that runs it.
        direct: Whether `call` is the operation itself.
    """

    operation: str
    call: ast.Call
    direct: bool


def critical_calls(module: Module, block: Iterable[ast.stmt]) -> list[Critical]:
    """Return the critical operations that the statements run, in source order, through helpers too."""
    nodes = [node for statement in block for node in (statement, *walk_scope(statement))]
    return [
        Critical(operation, node, critical_operation(module, node) is not None)
        for node in nodes
        if isinstance(node, ast.Call) and (operation := _operation(module, node, _DEPTH))
    ]


def _operation(module: Module, call: ast.Call, depth: int) -> str | None:
    own = critical_operation(module, call)
    if own is not None or not depth:
        return own
    found = target(module, call)
    return _of_function(*found, depth - 1) if found is not None else None


def _of_function(module: Module, function: Function, depth: int) -> str | None:
    question = ("critical operation", function, depth)
    return module.once(question, lambda: _first(module, function, depth))


def _first(module: Module, function: Function, depth: int) -> str | None:
    for node in walk_scope(function):
        if isinstance(node, ast.Call) and not _is_contained(module, node):
            operation = _operation(module, node, depth)
            if operation is not None:
                return operation
    return None


def _is_contained(module: Module, call: ast.Call) -> bool:
    """Whether a handler in the same function keeps the errors of a call from leaving it."""
    return any(
        catch.broad and not catch.raises
        for block in module.tree.handlers_around(call)
        for catch in (catch_of(module, handler) for handler in block.handlers)
    )
