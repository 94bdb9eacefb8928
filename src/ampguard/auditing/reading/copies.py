"""Functions and comprehensions that copy a dictionary item by item, to rename its keys or move its values."""

import ast

from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk_scope


def items_of(node: ast.expr | None) -> ast.expr | None:
    """Return the dictionary whose items an expression walks, `states` for `states.items()`; None for another one."""
    while isinstance(node, ast.Call) and called(node) in ("list", "tuple", "sorted") and len(node.args) == 1:
        node = node.args[0]
    return receiver(node) if isinstance(node, ast.Call) and called(node) == "items" else None


def given_to(node: ast.Call, function: Function, name: str | None) -> ast.expr | None:
    """Return what a call gives to one parameter of the function, None for no name."""
    names = [arg.arg for arg, _ in parameters(function)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    return argument(node, names.index(name), name) if name in names else None


def copied_parameter(function: Function, returned: list[ast.expr]) -> str | None:
    """Return the parameter that a function copies item by item, `for k, v in states.items(): new[k] = v`; else None."""
    if len(returned) != 1:
        return None
    if isinstance(returned[0], ast.DictComp) and len(returned[0].generators) == 1:
        return _parameter_named(function, key(items_of(returned[0].generators[0].iter)))
    place = key(returned[0]) if isinstance(returned[0], ast.Name) else None
    loops = [n for n in walk_scope(function) if isinstance(n, ast.For)]
    over = {key(items_of(loop.iter)) for loop in loops}
    filled = [n for n in walk_scope(function) if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store)]
    inside = {id(n) for loop in loops for n in walk_scope(loop)}
    only = all(key(n.value) == place and not isinstance(n.slice, ast.Constant) and id(n) in inside for n in filled)
    if place is None or len(over) != 1 or not filled or not only:
        return None
    return _parameter_named(function, over.pop())


def _parameter_named(function: Function, name: str | None) -> str | None:
    return name if any(arg.arg == name for arg, _ in parameters(function)) else None
