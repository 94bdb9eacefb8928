"""Uses right behind the test that leaves a name None: `if labels_only: data = None`, then `data = list(data)`.

Both stand in one block, and nothing between them asks or gives a value: where the test holds, the use fails.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, needed_by
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import is_none_literal, key, walk_scope

_TAKES_ALL = ("list", "tuple", "len", "iter", "enumerate", "sorted", "reversed", "zip", "sum", "max", "min", "set")
_OWN_WAYS = (ast.IfExp, ast.BoolOp, ast.Lambda, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def uses_right_behind(module: Module) -> Iterator[Use]:
    """Walk the first use of each such name in the block of the test."""
    if "= None\n" not in module.text:
        return
    nodes: list[ast.Assign] = module.tree.all(ast.Assign)
    for node in nodes:
        if not is_none_literal(node.value) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            continue
        test = module.tree.parents[node]
        if not isinstance(test, ast.If) or leaves(test.body) or node not in test.body or test.orelse:
            continue
        name = node.targets[0].id
        if asks_about(test.test, name) or any(True for _ in module.tree.handlers_around(test)):
            continue
        use = _first_need(module.tree.behind(test), name) if _is_last_given(test.body, node, name) else None
        if use is not None:
            yield Use(name, use, node)


def _is_last_given(body: list[ast.stmt], node: ast.Assign, name: str) -> bool:
    """Whether no statement behind an assignment in its block gives the name another value."""
    later = (n for statement in body[body.index(node) + 1 :] for n in (statement, *walk_scope(statement)))
    return not any(isinstance(n, ast.Name) and n.id == name for n in later)


def _first_need(statements: list[ast.stmt], name: str) -> ast.AST | None:
    """Return what needs a name first in plain statements, if none before asks about it or gives it a value."""
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr | ast.Return | ast.For):
            return None
        looked = statement.iter if isinstance(statement, ast.For) else statement
        nodes = [looked, *walk_scope(looked)]
        if any(isinstance(n, _OWN_WAYS) for n in nodes) and any(key(n) == name for n in nodes):
            return None
        use = next((n for n in nodes if _needs(n, name)), None)
        if use is not None:
            return use
        if isinstance(statement, ast.For):
            return looked if key(looked) == name else None
        if any(key(n) == name for n in nodes):
            return None
    return None


def _needs(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _TAKES_ALL:
        return any(key(argument) == name for argument in node.args)
    return any(key(needed) == name for needed in needed_by(node)) and not isinstance(node, ast.Compare)
