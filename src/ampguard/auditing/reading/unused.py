"""Parameters that a function is given and does nothing with: never read, or only asked whether they are there."""

import ast

from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, walk_scope


def unused_parameters(function: Function) -> set[str]:
    """Return the parameters that a function with a body of its own never uses.

    To ask for one is no use of it: `if scaler is not None and "scaler" in states: ...` with nothing about it inside.
    Empty for what only stands for another function: a stub, one that raises, one that reads `locals()`.
    """
    if not _has_body(function):
        return set()
    nodes = [node for statement in function.body for node in (statement, *walk_scope(statement))]
    asked = {id(name) for node in nodes if isinstance(node, ast.If) for name in _only_asked(node.test)}
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in asked}
    inner = {n.id for node in nodes if isinstance(node, ast.Lambda) for n in ast.walk(node) if isinstance(n, ast.Name)}
    if "locals" in read:
        return set()
    return {arg.arg for arg, _ in parameters(function)} - read - inner - _inside_functions(nodes)


def _has_body(function: Function) -> bool:
    kept = [s for s in function.body if not isinstance(s, ast.Pass | ast.Raise)]
    return any(not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in kept)


def _only_asked(test: ast.expr) -> list[ast.Name]:
    """Return the names of a test that are only asked for: `x`, `not x`, `x is not None`, and several of these."""
    if isinstance(test, ast.BoolOp):
        return [name for value in test.values for name in _only_asked(value)]
    if isinstance(test, ast.UnaryOp):
        return _only_asked(test.operand)
    if isinstance(test, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in test.ops):
        return [test.left] if isinstance(test.left, ast.Name) else []
    return [test] if isinstance(test, ast.Name) else []


def _inside_functions(nodes: list[ast.AST]) -> set[str]:
    """Return the names that functions inside of this one read: `walk_scope` does not enter them."""
    inner = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
    return {n.id for node in inner for n in ast.walk(node) if isinstance(n, ast.Name)}
