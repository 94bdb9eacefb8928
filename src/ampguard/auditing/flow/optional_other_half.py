"""Uses in the `else` of a test that asks for a thing and for something more.

`if optimizer is not None and not skip:` with `optimizer.state_dict()` in the `else`: that side runs where there is no
optimizer, too.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, failing_uses, is_conditional
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, is_none_literal, key, walk

_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)


def uses_in_the_other_half(module: Module) -> Iterator[Use]:
    """Walk the first use in each such `else` of a parameter that is None by default."""
    if not module.mentions(("is not None and ", " and ")) or not module.mentions(("=None", "= None")):
        return
    for branch in module.tree.all(ast.If):
        if not branch.orelse or not isinstance(branch.test, ast.BoolOp) or not isinstance(branch.test.op, ast.And):
            continue
        function = module.tree.function(branch)
        for name in filter(None, map(_asked, branch.test.values)) if function is not None else ():
            given = _given(module, function, name) if function is not None else None
            if function is None or given is None or _is_asked_beside(function, branch, name):
                continue
            use = _first_use(module, branch, name)
            if use is not None:
                yield Use(name, use, branch.test)
                break


def _asked(test: ast.expr) -> str | None:
    """Return the name that a part of a test asks for: `x`, `x is not None`."""
    if isinstance(test, ast.Name):
        return test.id
    asks = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and is_none_literal(test.comparators[0])
    return key(test.left) if asks and isinstance(test.left, ast.Name) else None  # type: ignore[attr-defined]


def _given(module: Module, function: Function, name: str) -> ast.arg | None:
    """Return the parameter, None by default, that nothing gives another value."""
    if any(not isinstance(held.ctx, ast.Load) for held in module.tree.named(name, function)):
        return None
    return next((a for a, d in parameters(function) if a.arg == name and d is not None and is_none_literal(d)), None)


def _is_asked_beside(function: Function, branch: ast.If, name: str) -> bool:
    """Whether another test of the function asks about the name: before, or in the `else` itself."""
    for node in walk(function):
        if node is branch or node is branch.test:
            continue
        tests = [node.test] if isinstance(node, _TESTING) else node.values if isinstance(node, ast.BoolOp) else []
        if any(asks_about(test, name) for test in tests):
            return True
    return False


def _first_use(module: Module, branch: ast.If, name: str) -> ast.AST | None:
    for statement in branch.orelse:
        for use in failing_uses(module, statement, name):
            if any(True for _ in module.tree.handlers_around(use)):
                return None
            if not is_conditional(module, use, branch):
                return use
    return None
