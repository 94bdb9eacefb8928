"""What is added to gradients: a penalty on the weights, noise, decay by hand.

What is made of other gradients carries the scale as they do, and what is multiplied by the scale is right as it is.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, walk

_ADDS = frozenset({"add_", "sub_", "addcmul_", "addcdiv_"})
_SCALE = regex(r"scale|scaler", re.IGNORECASE)
_NOISE = regex(r"^(randn|rand|normal|randn_like|rand_like|noise|gauss(ian)?|laplace)$|(^|_)noise(_|$)", re.IGNORECASE)


def gradients_of(module: Module) -> list[ast.Attribute]:
    """Return every `.grad` that is read or written."""
    return module.once("gradients", lambda: [a for a in module.tree.all(ast.Attribute) if a.attr == "grad"])


def added_to(module: Module) -> Iterator[ast.stmt]:
    """Walk the statements that add to a gradient what does not carry the scale: of the weights, or noise."""
    for gradient in gradients_of(module):
        statement = module.tree.statement(gradient)
        value = _addend(module, gradient, statement)
        if value is not None and _carries_no_scale(gradient, value) and not _SCALE.search(ast.unparse(statement)):
            yield statement


def _addend(module: Module, gradient: ast.Attribute, statement: ast.stmt) -> ast.expr | None:
    """Return what a statement adds to a gradient: `p.grad += x`, `p.grad.data.add_(x)`, `p.grad = p.grad + x`."""
    if isinstance(statement, ast.AugAssign):
        own = _of_data(statement.target) is gradient
        return statement.value if own and isinstance(statement.op, ast.Add | ast.Sub) else None
    if isinstance(statement, ast.Assign):
        sums = isinstance(statement.value, ast.BinOp) and isinstance(statement.value.op, ast.Add | ast.Sub)
        own = sums and key(statement.targets[0]) == key(gradient) and gradient is not statement.targets[0]
        sides = [statement.value.left, statement.value.right] if own else []  # type: ignore[attr-defined]
        return next((side for side in sides if not module.tree.inside(gradient, side)), None)
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or called(call) not in _ADDS or not isinstance(call.func, ast.Attribute):
        return None
    return ast.Tuple(list(call.args), ast.Load()) if _of_data(call.func.value) is gradient and call.args else None


def _of_data(node: ast.expr) -> ast.expr:
    """Return the gradient of `p.grad.data`."""
    return node.value if isinstance(node, ast.Attribute) and node.attr == "data" else node


def _carries_no_scale(gradient: ast.Attribute, value: ast.expr) -> bool:
    """Whether what is added is noise, or made of the weights that the gradient is of, and of no gradient."""
    nodes = list(walk(value))
    spoken = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    if any(_NOISE.search(word) for word in spoken):
        return True
    if any("grad" in word.lower() for word in spoken):
        return False
    weights = key(gradient.value)
    return weights is not None and any(key(n) == weights for n in nodes if isinstance(n, ast.Name | ast.Attribute))
