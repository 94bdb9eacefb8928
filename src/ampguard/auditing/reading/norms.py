"""Norms as divisors: of a cosine worked out by hand, and of gradients and differences, which may be 0 everywhere.

0 / 0 is NaN, and goes into all that is worked out from it. Other vectors that are brought to length 1, such as
features, are hardly ever 0, and are left alone.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.reading.zeros import Zero

_TURNED = ("t", "transpose", "unsqueeze", "squeeze", "view", "reshape", "item", "float", "permute", "cpu", "detach")
_ROOTS = ("torch", "np", "numpy", "math")
_SQUARES = regex(r"(^|_)(l2_?)?norms?(_sq\w*|2)?(_|$)|l2norm", re.IGNORECASE)
_NORMS = ("norm", "vector_norm")
_LIBRARIES = ("torch", "torch.linalg", "np.linalg", "numpy.linalg", "linalg", "LA")
_CHANGES = regex(r"(^|_)(grads?|gradients?|deltas?|diffs?|differences?|perturbations?|residuals?|steps?)(_|$)|^[dg]$")
_MIXES = regex(r"lerp|interpol", re.IGNORECASE)
"""Points of noise, which is never 0 everywhere."""

_MENDS = regex(r"\beps|epsilon|EPS|1e-|clamp|clip|maximum|\bmax\(|where\(|nan_to_num|isnan|errstate|all_?close")
"""Looked for in the body: an `eps` among the parameters that nobody reads mends nothing."""


def over_norms(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`a @ b.t() / (a.norm() * b.norm())`, `grad / grad.norm()`: zero where a vector is, as a gradient may be."""
    if _is_one(left) and module.mentions(("norm",)):
        return _under_a_root(module, right)
    if not module.mentions(("norm(",)):
        return None
    value = _value(module, _turned_back(right))
    both = isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult)
    sides = [value.left, value.right] if both else [value]  # type: ignore[attr-defined]
    if not all(_is_norm(module, side) for side in sides) or not (both or _is_of_a_change(left, value)):
        return None
    if _is_mended(module, right, sides):
        return None
    which = "one of the two vectors is 0" if both else f"`{module.segment(left, 30)}` is 0"
    return Zero("relative", f"is 0 where {which} everywhere", right.lineno, frozenset({spelling(right)}))


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 1


def _under_a_root(module: Module, right: ast.expr) -> Zero | None:
    """`1 / norm_sq.sqrt()`, where the square of a norm is known by its name: 0 for a group of weights that are 0."""
    value = _value(module, right)
    if not isinstance(value, ast.Call) or called(value) != "sqrt":
        return None
    owner = receiver(value)
    over = (value.args[0] if value.args else None) if owner is None or key(owner) in _ROOTS else owner
    place = key(over) or ""
    if over is None or not _SQUARES.search(place.rpartition(".")[2]) or _is_mended(module, right, [over]):
        return None
    return Zero("void", f"is 0 where `{place}` is, as of weights that have died", right.lineno, frozenset({place}))


def _is_mended(module: Module, right: ast.expr, sides: list[ast.expr]) -> bool:
    """Whether the function keeps a norm from zero, asks about it, or mixes two points of a sphere by it."""
    function = module.tree.function(right)
    if function is not None and _MIXES.search(function.name):
        return True
    text = "\n".join(ast.unparse(s) for s in (function or module.root).body)
    places = [re.escape(place) for side in (right, *sides) if (place := key(side))]
    return bool(_MENDS.search(text)) or any(
        re.search(rf"\b(if|assert)\b[^\n]*\b{place}\b(?! is None)|\b{place}\[|\b{place} ([=!]=|[<>]=?) ", text)
        for place in places
    )


def _is_of_a_change(left: ast.expr, norm: ast.expr) -> bool:
    """Whether a gradient, or a difference by its name, is divided by the norm of itself."""
    place = key(left) or ""
    norm = _turned_back(norm)
    over = receiver(norm) if isinstance(norm, ast.Call) else None
    if isinstance(norm, ast.Call) and (over is None or key(over) in _LIBRARIES):
        over = norm.args[0] if norm.args else None
    same = over is not None and key(_turned_back(over)) == place
    return same and _CHANGES.search(place.rpartition(".")[2]) is not None


def _value(module: Module, node: ast.expr) -> ast.expr:
    values = assigned(module, node) if isinstance(node, ast.Name) else []
    return values[0] if len(values) == 1 else node


def _is_norm(module: Module, node: ast.expr) -> bool:
    """Whether an expression is the norm of something, by a call or by a name, turned or not."""
    node = _value(module, _turned_back(node))
    arms = (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,)
    return any(_is_norm_call(arm) for arm in arms)


def _is_norm_call(node: ast.expr) -> bool:
    node = _turned_back(node)
    return isinstance(node, ast.Call) and called(node) in _NORMS


def _turned_back(node: ast.expr) -> ast.expr:
    while True:
        if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
            node = node.value
        elif isinstance(node, ast.Call) and called(node) in _TURNED and (owner := receiver(node)) is not None:
            node = owner
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            return node
