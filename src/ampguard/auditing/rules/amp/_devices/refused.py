"""Where code stops, returns or skips without CUDA, so that what follows may count on it."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called
from ampguard.auditing.rules.amp._steps import callers, enclosing, tests_above


def stops_without_cuda(module: Module) -> bool:
    """Whether a file as a whole stops where CUDA is missing: with no test of another kind around the question."""
    return any(_ends_the_run(node) and not _is_chosen(module, node) for node in _questions(module))


def stops_before(module: Module, call: ast.expr) -> bool:
    """Whether the function around a call leaves before it where CUDA is missing, or runs only where it was found."""
    around = enclosing(module, call)
    if any(
        enclosing(module, q) is around and q.lineno < call.lineno and _goes_with(module, q, call)
        for q in _questions(module)
    ):
        return True
    calls = callers(module, around) if isinstance(around, FUNCTIONS) else []
    return bool(calls) and all(any("cuda" in ast.unparse(test) for test, _ in tests_above(module, c)) for c in calls)


def _goes_with(module: Module, question: ast.stmt, call: ast.expr) -> bool:
    """Whether the tests around a question stand around the call as well."""
    around = {id(test) for test, _ in tests_above(module, call)}
    return all(id(test) in around for test, _ in tests_above(module, question))


def _questions(module: Module) -> list[ast.stmt]:
    """Return the assertions of CUDA, and the `if`s that leave where it is missing."""
    return module.once("questions for CUDA", lambda: list(_asking(module)))


def _asking(module: Module) -> Iterator[ast.stmt]:
    for node in module.tree.all(ast.If):
        if _leaves(node.body[-1]) and "is_available" in ast.unparse(node.test):
            yield node
    yield from (node for node in module.tree.all(ast.Assert) if "cuda" in ast.unparse(node.test))


def _leaves(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return called(statement.value) in ("exit", "_exit", "skip", "error")
    return isinstance(statement, ast.Raise | ast.Return | ast.Continue)


def _ends_the_run(question: ast.stmt) -> bool:
    return not isinstance(question, ast.If) or not isinstance(question.body[-1], ast.Return | ast.Continue)


def _is_chosen(module: Module, question: ast.stmt) -> bool:
    """Whether a question is asked only of some runs, such as distributed ones: another never comes there."""
    name = getattr(module.tree.function(question), "name", "")
    text = ast.unparse(question.test) if isinstance(question, ast.If | ast.Assert) else ""
    return (
        "dist" in name or "istributed" in text or _of_some(question) or any(True for _ in tests_above(module, question))
    )


def _of_some(question: ast.stmt) -> bool:
    """Whether a question is put together with another: `if config.use_gpu and not torch.cuda.is_available()`."""
    test = question.test if isinstance(question, ast.If | ast.Assert) else None
    return isinstance(test, ast.BoolOp) and not all("cuda." in ast.unparse(value) for value in test.values)


def tests_outside(module: Module, node: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """Walk the tests around a node, before it in an `and`, and around the functions that its own is nested in."""
    yield from ((test, True) for test in _before_in_an_and(module, node))
    at: ast.AST | None = node
    while at is not None:
        yield from tests_above(module, at)
        at = module.tree.function(at)


def _before_in_an_and(module: Module, node: ast.AST) -> Iterator[ast.expr]:
    below = node
    for at in module.tree.above(node):
        if isinstance(at, ast.stmt):
            return
        if isinstance(at, ast.BoolOp) and isinstance(at.op, ast.And):
            yield from at.values[: next((n for n, value in enumerate(at.values) if value is below), 0)]
        below = at
