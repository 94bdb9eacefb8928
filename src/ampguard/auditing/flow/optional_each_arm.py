"""Uses of a parameter, None by default, on each side of a test: whichever is taken, it fails without the parameter.

`if len(preds) == 2: label = batch[1]` with `else: label, length = batch[1], batch[5]`, where `batch=None`.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import body_text, failing_uses, is_conditional, is_stub, is_touched, may_need
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, is_none_literal, walk

_LEAVING = (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom)


def uses_on_each_side(module: Module) -> Iterator[Use]:
    """Walk the first use of each such parameter on the first side."""
    if not module.mentions(("=None", "= None")):
        return
    for function in module.functions:
        branches = [s for s in function.body if isinstance(s, ast.If) and s.orelse]
        nones = [a for a, d in parameters(function) if d is not None and is_none_literal(d)] if branches else []
        text = body_text(module, function) if nones else ""
        for arg in nones:
            if not may_need(arg.arg, text):
                continue
            use = _first_use(module, function, branches, arg.arg)
            if use is not None and not is_touched(module, function, arg.arg) and not is_stub(function):
                yield Use(arg.arg, use, arg)


def _first_use(module: Module, function: Function, branches: list[ast.If], name: str) -> ast.AST | None:
    for branch in branches:
        found = [_at_once(module, arm, branch, name) for arm in (branch.body, branch.orelse)]
        if found[0] is not None and found[1] is not None:
            early = any(isinstance(n, _LEAVING) and n.lineno < branch.lineno for n in walk(function))
            return None if early else found[0]
    return None


def _at_once(module: Module, arm: list[ast.stmt], branch: ast.If, name: str) -> ast.AST | None:
    """Return the first use in an arm that runs whenever the arm does."""
    for statement in arm:
        for use in failing_uses(module, statement, name):
            if not is_conditional(module, use, branch):
                return use
        if any(isinstance(n, _LEAVING) for n in (statement, *walk(statement))):
            return None
    return None
