"""Cosines worked out by hand: a product of two norms is 0 where one of the vectors is, and 0 / 0 is NaN."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.reading.zeros import Zero

_TURNED = ("t", "transpose", "unsqueeze", "squeeze", "view", "reshape", "item", "float", "permute", "cpu", "detach")
_NORMS = ("norm", "vector_norm")
_MENDS = regex(r"\beps|epsilon|EPS|1e-|clamp|clip|maximum|\bmax\(|where\(|nan_to_num|isnan|errstate|all_?close")
"""Looked for in the body: an `eps` among the parameters that nobody reads mends nothing."""


def product_of_norms(module: Module, right: ast.expr) -> Zero | None:
    """`a @ b.t() / (a.norm() * b.norm())`: zero where one of the vectors is, as a gradient may be."""
    value = _value(module, right)
    if not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.Mult) or not module.mentions(("norm(",)):
        return None
    if not (_is_norm(module, value.left) and _is_norm(module, value.right)):
        return None
    function = module.tree.function(right)
    text = "\n".join(ast.unparse(s) for s in (function or module.root).body)
    places = [re.escape(place) for side in (right, value.left, value.right) if (place := key(side))]
    if _MENDS.search(text) or any(re.search(rf"\b(if|assert)\b[^\n]*\b{place}\b", text) for place in places):
        return None
    return Zero(
        "relative", "is 0 where one of the two vectors is 0 everywhere", right.lineno, frozenset({spelling(right)})
    )


def _value(module: Module, node: ast.expr) -> ast.expr:
    values = assigned(module, node) if isinstance(node, ast.Name) else []
    return values[0] if len(values) == 1 else node


def _is_norm(module: Module, node: ast.expr) -> bool:
    """Whether an expression is the norm of something, by a call or by a name, turned or not."""
    node = _value(module, _turned_back(node))
    if isinstance(node, ast.IfExp):
        return _is_norm(module, node.body) or _is_norm(module, node.orelse)
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
