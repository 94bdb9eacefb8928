"""Numbers that a user sets: parameters, options, items of a configuration, fields of an object's class.

Followed through plain assignments, conversions and products, also from the function around a closure. What comes back
are the names under which the number is handed in, so that whoever asks about one of them is heard.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, is_none_literal, key

_LOOKS_UP = regex(r"get|pop|param|option|setting|config", re.IGNORECASE)
_CONVERTS = ("float", "int", "round", "ceil")


def plain(node: ast.expr) -> ast.expr:
    """Return what is converted: `x` of `float(x)`."""
    while isinstance(node, ast.Call) and called(node) in _CONVERTS and len(node.args) == 1:
        node = node.args[0]
    return node


def word(node: ast.expr) -> str | None:
    """Return the last word of a name, an attribute, an item or a look-up: `warmup` of `cfg.get("warmup", 5)`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    index = node.slice if isinstance(node, ast.Subscript) else _looked_up(node)
    return index.value if isinstance(index, ast.Constant) and isinstance(index.value, str) else None


def _looked_up(node: ast.expr) -> ast.expr | None:
    """Return the name that a call looks up, `cfg.get("x", 5)`, `getattr(args, "x")`; None where it may give None."""
    if (
        not isinstance(node, ast.Call)
        or not _LOOKS_UP.search(called(node))
        or any(is_none_literal(a) for a in node.args)
    ):
        return None
    return next((a for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)), None)


def names_outside(module: Module, node: ast.expr) -> set[str]:
    """Return the names under which a number is handed in; none where it is made here, or is a constant's name."""
    if isinstance(node, ast.Name):
        found = module.names.lookup(node.id, node)
        if found is None:
            return set()
        if all(bound.kind == "parameter" for bound in found[1]):
            return set() if any(is_none_literal(bound.value) for bound in found[1]) else {node.id}
        return _of_all(module, module.names.values(node.id, node))
    if isinstance(node, ast.Attribute) and key(node.value) == "self":
        return _of_all(module, assigned(module, node)) or _of_class(module, node)
    return set() if _is_upper(node) else {word(node) or ""} - {""}


def _of_all(module: Module, values: list[ast.expr]) -> set[str]:
    """Return the names of what is assigned to one place, where every value is handed in."""
    found = [_of_value(module, value) for value in values]
    return set().union(*found) if all(found) else set()


def _of_value(module: Module, value: ast.expr) -> set[str]:
    node = plain(value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):  # a number of epochs, times the steps of one
        return _of_value(module, node.left) | _of_value(module, node.right)
    if isinstance(node, ast.Name):
        function = module.tree.function(value)
        found = module.names.lookup(node.id, node)
        if (
            function is None
            or found is None
            or any(b.kind != "parameter" or is_none_literal(b.value) for b in found[1])
        ):
            return set()
        return {node.id}
    return set() if _is_upper(node) else {word(node) or ""} - {""}


def _of_class(module: Module, node: ast.Attribute) -> set[str]:
    """Return the name of a field that its class declares and no method sets: whoever makes the object sets it."""
    cls = module.tree.class_of(node)
    fields = (s for s in cls.body if isinstance(s, ast.AnnAssign)) if cls is not None else ()
    declared = any(key(s.target) == node.attr and not is_none_literal(s.value) for s in fields)
    return {node.attr} if declared and not assigned(module, node) else set()


def _is_upper(node: ast.expr) -> bool:
    return (word(node) or "").isupper()
