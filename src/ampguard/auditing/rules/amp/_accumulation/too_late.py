"""Divisions that come behind the backward pass: `loss.backward()`, then `loss = loss / k` for the log."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, walk


def comes_too_late(module: Module, statement: ast.AST, use: ast.Name) -> bool:
    """Whether what a statement gives a name never comes to a use: it stands behind it, and the next pass starts anew.

    That is so where no loop is around both, or where one gives the name another value before the use, under no test.
    """
    if getattr(statement, "lineno", 0) <= (use.end_lineno or use.lineno):
        return False
    if module.tree.function(statement) is not module.tree.function(use):
        return False
    loops = list(module.tree.loops(use))
    both = next((n for n, loop in enumerate(loops) if module.tree.inside(statement, loop)), None)
    if both is None:
        return True
    before = (given for loop in loops[: both + 1] for given in _always_run(loop.body))
    return any(given.lineno < use.lineno and _gives(given, use.id) for given in before)


def _always_run(body: list[ast.stmt]) -> Iterator[ast.Assign]:
    """Walk the assignments of a block that stand under no test."""
    for item in body:
        if isinstance(item, ast.Assign):
            yield item
        elif isinstance(item, ast.With):
            yield from _always_run(item.body)


def _gives(given: ast.Assign, name: str) -> bool:
    """Whether an assignment gives a name a value that is not made from the one it had."""
    bound = {key(n) for target in given.targets for n in walk(target)}
    return name in bound and not any(isinstance(n, ast.Name) and n.id == name for n in walk(given.value))
