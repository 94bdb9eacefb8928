"""Uses that stand under the very test that says they fail: a question asked the wrong way round.

`if self.writer is None: self.writer.close()`, `x.shape if x is None else y`, `x is None and x.done`: no path is
needed, the test itself says what the object is where it is used.
"""

import ast
from collections.abc import Iterator, Sequence

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import needed_by
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import is_none_literal, key, walk_scope


def uses_where_none(module: Module) -> Iterator[Use]:
    """Walk the first use under each such test."""
    if not module.mentions(("is None", "is not None")):
        return
    for test in module.tree.all(ast.Compare):
        place, is_none = _question(test)
        if place is None:
            continue
        for part in _run_where_none(module, test, is_none=is_none):
            use = _first_need(part, place)
            if use is not None and not any(True for _ in module.tree.handlers_around(use)):
                yield Use(place, use, test)
                break


def _question(test: ast.Compare) -> tuple[str | None, bool]:
    """Return the place that a test compares with None, and whether it asks for None."""
    if not isinstance(test.ops[0], ast.Is | ast.IsNot) or not is_none_literal(test.comparators[0]):
        return None, False
    return key(test.left), isinstance(test.ops[0], ast.Is)


def _run_where_none(module: Module, test: ast.Compare, *, is_none: bool) -> Sequence[ast.AST]:
    """Return what runs first where the place is None, for a test that stands alone or leads `and` or `or`."""
    above = module.tree.parents[test]
    if isinstance(above, ast.If) and above.test is test:
        return (above.body if is_none else above.orelse)[:1]
    if isinstance(above, ast.IfExp) and above.test is test:
        return [above.body if is_none else above.orelse]
    if isinstance(above, ast.BoolOp) and test in above.values:
        runs = isinstance(above.op, ast.And) is is_none
        return above.values[above.values.index(test) + 1 :][:1] if runs else []
    return []


def _first_need(part: ast.AST, place: str) -> ast.AST | None:
    """Return what fails without the place, unless a test or a call may come before it or it is given a value."""
    if isinstance(
        part, ast.If | ast.For | ast.While | ast.Try | ast.With | ast.FunctionDef | ast.Lambda | ast.IfExp | ast.BoolOp
    ):
        return None
    found = None
    for node in (part, *walk_scope(part)):
        if isinstance(node, ast.IfExp | ast.BoolOp | ast.Lambda | ast.NamedExpr):
            return None
        if key(node) == place and not isinstance(getattr(node, "ctx", None), ast.Load):
            return None
        if found is None and any(key(needed) == place for needed in needed_by(node)):
            found = node
    return found
