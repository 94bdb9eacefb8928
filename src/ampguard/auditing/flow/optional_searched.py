"""Uses of what a loop looked for and may not have found.

`newest = None`, then a loop that sets it where a test holds, then `newest.stem`: where nothing passes the test, or
nothing was there to go through, it is None still. A search for the best (`<`, `>`) finds one wherever there are any.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import failing_uses, is_asked, is_conditional
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, is_none_literal, walk


def uses_of_what_was_not_found(module: Module) -> Iterator[Use]:
    """Walk the uses behind a loop of a name that is None before it, and that only a test in the loop gives a value."""
    for node in module.tree.all(ast.Assign):
        if not is_none_literal(node.value) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            continue
        function = module.tree.function(node)
        if function is None or module.tree.parents[node] is not function:
            continue
        name = node.targets[0].id
        loop = _searching(module, function, node, name)
        if loop is None or is_asked(module, function, name):
            continue
        end = loop.end_lineno or loop.lineno
        for use in failing_uses(module, function, name):
            if use.lineno > end and not is_conditional(module, use, function):  # type: ignore[attr-defined]
                yield Use(name, use, node)
                break


def _searching(module: Module, function: Function, node: ast.Assign, name: str) -> ast.For | None:
    """Return the loop behind an assignment whose tests alone give the name a value."""
    found: ast.For | None = None
    at = function.body.index(node)
    for statement in function.body[at + 1 :]:
        sets = [n for n in walk(statement) if isinstance(n, ast.Name) and n.id == name and _is_store(n)]
        if not sets:
            continue
        if not isinstance(statement, ast.For) or found is not None or statement.orelse:
            return None
        if not all(_is_set_by_a_search(module, n, statement) for n in sets):
            return None
        found = statement
    return found


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _is_set_by_a_search(module: Module, node: ast.Name, loop: ast.For) -> bool:
    """Whether a name gets a value under an `if` without an `else`, that asks for no order."""
    for above in module.tree.above(node):
        if above is loop or isinstance(above, ast.Try | ast.While | ast.For):
            return False
        if isinstance(above, ast.If):
            ordered = any(
                isinstance(op, ast.Lt | ast.Gt | ast.LtE | ast.GtE)
                for n in walk(above.test)
                if isinstance(n, ast.Compare)
                for op in n.ops
            )
            return not above.orelse and not ordered
    return False
