"""A `finally` that leaves by itself: whatever exception is on its way then is gone without a word."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.handlers import catch_of
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, Scope, walk


def leaving_finally(module: Module) -> Iterator[ast.Return | ast.Break | ast.Continue]:
    """Walk the jumps that leave a `finally`; behind a handler of every error nothing is left that they could drop."""
    for attempt in module.tree.all(ast.Try, ast.TryStar) if "finally" in module.text else ():
        if attempt.finalbody and not any(_keeps_all(module, handler) for handler in attempt.handlers):
            for statement in attempt.finalbody:
                jump = next(_jumps(statement), None)
                if jump is not None:
                    yield jump
                    break


def _keeps_all(module: Module, handler: ast.ExceptHandler) -> bool:
    raises = any(isinstance(node, ast.Raise | ast.Assert) for node in walk(handler))
    return catch_of(module, handler).broad and not raises


def _jumps(node: ast.AST, *, looped: bool = False) -> Iterator[ast.Return | ast.Break | ast.Continue]:
    """Walk the jumps below a statement that leave it: those of a loop of its own do not."""
    if isinstance(node, Scope):
        return
    if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not looped):
        yield node
    for below in ast.iter_child_nodes(node):
        yield from _jumps(below, looped=looped or isinstance(node, Loop))
