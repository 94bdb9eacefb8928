"""What a name may hold where its function returns it: None, a value, or both, along the statements of the function.

`state = None`, `if found: state = load()`, `return state`: both. A plain reading of the statements in order: arms are
joined, what returns or raises ends its arm, a loop runs, and a test of the name itself tells its arms apart.
"""

import ast
from collections.abc import Iterator, Sequence

from ampguard.auditing.reading.tree import Function, is_none_literal, key, walk

Held = frozenset[ast.AST | None]
"""The assignments of None that a name may hold, and None itself for any other value."""

_OTHER: Held = frozenset({None})
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign)


def none_of_returned(function: Function, name: str) -> dict[ast.Return, ast.AST]:
    """Return, for each `return` that a name may reach as None, the assignment that leaves it so."""
    found: dict[ast.Return, ast.AST] = {}
    _run(function.body, name, _OTHER, found)
    return found


def _run(body: Sequence[ast.stmt], name: str, held: Held | None, found: dict[ast.Return, ast.AST]) -> Held | None:
    """Return what a name may hold behind statements, None where they never end."""
    for statement in body:
        if held is None:
            return None
        held = _behind(statement, name, held, found)
    return held


def _behind(statement: ast.stmt, name: str, held: Held, found: dict[ast.Return, ast.AST]) -> Held | None:
    if isinstance(statement, ast.Return):
        none = next((node for node in held if node is not None), None)
        if none is not None:
            found.setdefault(statement, none)
        return None
    if isinstance(statement, ast.Raise | ast.Continue | ast.Break):
        return None
    if isinstance(statement, ast.If):
        given, missing = _told_apart(statement.test, name, held)
        return _joined(_run(statement.body, name, given, found), _run(statement.orelse, name, missing, found))
    if isinstance(statement, ast.For | ast.AsyncFor | ast.While):
        before = _set_by(statement.target, name, held) if not isinstance(statement, ast.While) else held
        once = _run(statement.body, name, before, found) or held  # a loop is taken to run, once at least
        return _run(statement.orelse, name, _joined(once, _in_loop(statement, name)), found)
    if isinstance(statement, ast.With | ast.AsyncWith):
        return _run(statement.body, name, held, found)
    if isinstance(statement, ast.Try | ast.TryStar):
        tried = _run([*statement.body, *statement.orelse], name, held, found)
        caught = (_run(h.body, name, _joined(held, tried), found) for h in statement.handlers)
        return _run(statement.finalbody, name, _joined(tried, *caught), found)
    if isinstance(statement, ast.Assert):
        return _told_apart(statement.test, name, held)[0]
    return _set_by(statement, name, held)


def _in_loop(loop: ast.AST, name: str) -> Held:
    """Return the values that a loop gives a name, whatever leaves the loop behind them."""
    sets = (n for n in walk(loop) if isinstance(n, _SIMPLE) and _is_set(n, name))
    return frozenset(None for n in sets if not is_none_literal(n.value))


def _is_set(statement: ast.Assign | ast.AnnAssign | ast.AugAssign, name: str) -> bool:
    return any(key(bound) == name for bound in _bound_by(statement))


def _set_by(node: ast.AST, name: str, held: Held) -> Held:
    """Return what a name holds behind a plain statement."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and any(key(b) == name for b in _targets(node)):
        return frozenset({node}) if node.value is not None and is_none_literal(node.value) else _OTHER
    bound = any(isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, ast.Load) for n in walk(node))
    return _OTHER if bound else held


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _bound_by(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Iterator[ast.expr]:
    for bound in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
        yield from bound.elts if isinstance(bound, ast.Tuple | ast.List) else [bound]


def _told_apart(test: ast.expr, name: str, held: Held) -> tuple[Held | None, Held | None]:
    """Return what a name may hold where a test holds and where it does not; None where that cannot be."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _told_apart(test.operand, name, held)[::-1]
    if isinstance(test, ast.BoolOp):
        return _told_apart_by_all(test, name, held)
    nones: Held = held - _OTHER
    if key(test) == name:  # what is empty is false as well
        return (held & _OTHER) or None, held
    if isinstance(test, ast.Compare) and key(test.left) == name and is_none_literal(test.comparators[0]):
        arms = (nones or None, (held & _OTHER) or None)
        if isinstance(test.ops[0], ast.Is | ast.Eq):
            return arms
        return arms[::-1] if isinstance(test.ops[0], ast.IsNot | ast.NotEq) else (held, held)
    return held, held


def _told_apart_by_all(test: ast.BoolOp, name: str, held: Held) -> tuple[Held | None, Held | None]:
    """Return the same for `and`, where each part holds, and for `or`, where none does."""
    is_and, left = isinstance(test.op, ast.And), held
    for value in test.values:
        one = _told_apart(value, name, left)[0 if is_and else 1]
        if one is None:
            return (None, held) if is_and else (held, None)
        left = one
    return (left, held) if is_and else (held, left)


def _joined(*arms: Held | None) -> Held | None:
    left = [arm for arm in arms if arm is not None]
    return frozenset().union(*left) if left else None
