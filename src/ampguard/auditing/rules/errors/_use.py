"""How a caller uses an answer: as a value, without having asked what it is."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.handlers import catch_of
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import walk

_HIDES = frozenset({"AttributeError", "TypeError", "IndexError", "KeyError", "ValueError"})
_DECIDING = (ast.If, ast.While, ast.IfExp, ast.Assert, ast.comprehension, ast.Match)


def used_unchecked(module: Module, call: ast.Call, signal: ast.expr | None) -> ast.AST | None:
    """Return the expression that uses the call's answer as a value, or None where it is checked or only passed on.

    Args:
        module: The file.
        call: The call.
        signal: What it returns on failure; a number is an index, anything else is no object to use.
    """
    index = isinstance(signal, ast.UnaryOp)
    answer = module.tree.parents[call]
    answer = answer if isinstance(answer, ast.Await) else call
    use = _use(module, answer, index)
    if use is not None:
        return None if _caught(module, use) else use
    statement = module.tree.parents[answer]
    if not isinstance(statement, ast.Assign) or statement.value is not answer or len(statement.targets) != 1:
        return None
    name = statement.targets[0]
    if isinstance(name, ast.Tuple | ast.List):
        return None if index or _caught(module, statement) else statement.value
    return _named_use(module, name, statement, index) if isinstance(name, ast.Name) else None


def _named_use(module: Module, name: ast.Name, statement: ast.Assign, index: bool) -> ast.AST | None:
    """Return the first use of the name behind its assignment, where nothing in the scope asks about the name."""
    first: ast.AST | None = None
    for node in _loads(module, name):
        if _asked(module, node):
            return None
        if first is None and node.lineno > statement.lineno:
            parent = module.tree.parents[node]
            if isinstance(parent, ast.Call) and node in parent.args:
                return None  # what it is given to may ask
            first = _use(module, node, index)
    if first is None or _caught(module, first) or _reassigned(module, name):
        return None
    return first


def _loads(module: Module, name: ast.Name) -> Iterator[ast.Name]:
    for node in walk(module.tree.scope(name)):
        if isinstance(node, ast.Name) and node.id == name.id and isinstance(node.ctx, ast.Load):
            yield node


def _use(module: Module, node: ast.AST, index: bool) -> ast.AST | None:
    parent = module.tree.parents[node]
    if isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Load):
        return parent if (parent.slice is node) == index else None
    if index:
        return None
    if isinstance(parent, ast.Attribute) or (isinstance(parent, ast.Call) and parent.func is node):
        return parent
    if isinstance(parent, ast.For | ast.comprehension) and parent.iter is node:
        return node
    return None


def _asked(module: Module, node: ast.AST) -> bool:
    """Whether the node stands in a condition, a comparison or an `and`/`or`."""
    below = node
    for at in module.tree.above(node):
        if isinstance(at, ast.Compare | ast.BoolOp):
            return True
        if isinstance(at, ast.UnaryOp) and isinstance(at.op, ast.Not):
            return True
        if isinstance(at, _DECIDING):
            return below is getattr(at, "test", None) or below is getattr(at, "subject", None) or below in _ifs(at)
        if isinstance(at, ast.stmt):
            return False
        below = at
    return False


def _ifs(node: ast.AST) -> list[ast.expr]:
    return node.ifs if isinstance(node, ast.comprehension) else []


def _caught(module: Module, node: ast.AST) -> bool:
    """Whether a handler around the use catches what it raises."""
    return any(
        catch.broad or any(kind in _HIDES for kind in catch.kinds)
        for block in module.tree.handlers_around(node)
        for catch in (catch_of(module, handler) for handler in block.handlers)
    )


def _reassigned(module: Module, name: ast.Name) -> bool:
    found = module.names.lookup(name.id, name)
    return found is None or len(found[1]) > 1
