"""The number that an expression certainly is."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, called

_DEPTH = 6


def number(module: Module, node: ast.expr | None, *, defaults: bool = False, depth: int = 0) -> float | None:
    """Return the number that an expression is: a literal, `float("-1e9")`, or a name that is assigned once.

    Args:
        module: The file.
        node: The expression.
        defaults: Whether a parameter counts as its default value.
        depth: Names followed so far.
    """
    if depth > _DEPTH:
        return None
    if isinstance(node, ast.Constant):
        value = node.value
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = number(module, node.operand, defaults=defaults, depth=depth + 1)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        sides = (number(module, side, defaults=defaults, depth=depth + 1) for side in (node.left, node.right))
        return _power(*sides)
    if isinstance(node, ast.Call):
        return _converted(node)
    if isinstance(node, ast.Name | ast.Attribute):
        values = assigned(module, node)
        if len(values) == 1:
            return number(module, values[0], defaults=defaults, depth=depth + 1)
        return number(module, _default(module, node), depth=depth + 1) if defaults and not values else None
    return None


def _power(base: float | None, exponent: float | None) -> float | None:
    try:
        return None if base is None or exponent is None else float(base**exponent)
    except (OverflowError, ZeroDivisionError, TypeError):
        return None


def _converted(node: ast.Call) -> float | None:
    """`float("-1e9")`."""
    if called(node) != "float" or len(node.args) != 1 or not isinstance(node.args[0], ast.Constant):
        return None
    try:
        return float(str(node.args[0].value))
    except ValueError:
        return None


def _default(module: Module, node: ast.expr) -> ast.expr | None:
    function = module.tree.scope(node)
    if not isinstance(node, ast.Name) or not isinstance(function, FUNCTIONS):
        return None
    return next((default for arg, default in parameters(function) if arg.arg == node.id), None)
