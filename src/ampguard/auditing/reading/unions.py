"""Areas of unions as divisors: `inter / (area_a + area_b - inter)` is 0 / 0 for two boxes without an area.

Boxes of padding, and those that were cut off at the edge of an image, have none. Boxes whose last pixel counts
(`x2 - x1 + 1`) always have one.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, walk
from ampguard.auditing.reading.zeros import Zero

_SHARED = regex(r"inter|overlap", re.IGNORECASE)
_MENDS = regex(
    r"(?<![a-z])eps|1e-|EPS|smooth|nan_to_num|where\(|errstate|isnan|isfinite|[=!]= ?0\b|[<>] ?0\b"
    r"|\+ ?(1(\.0?)?|TO_REMOVE|offset)\b"
)


def union(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return the zero of what two areas cover together, less what is above."""
    place = key(left)
    if place is None or not _SHARED.search(place):
        return None
    values = assigned(module, right) if isinstance(right, ast.Name) else [right]
    if len(values) != 1 or not _is_union(values[0], place):
        return None
    function = module.tree.function(right)
    text = module.text_of(function) if function is not None else module.text
    if _MENDS.search(text) or re.search(rf"(clamp|clip|max)\w*\([^\n]*\b{re.escape(key(right) or 'union')}\b", text):
        return None
    why = "is 0 where neither of the two covers anything, as boxes of padding"
    return Zero("void", why, right.lineno, frozenset({spelling(right), place}))


def _is_union(node: ast.expr, shared: str) -> bool:
    """Whether an expression is the sum of two parts, less what they share."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub) or key(node.right) != shared:
        return False
    both = node.left
    return (
        isinstance(both, ast.BinOp)
        and isinstance(both.op, ast.Add)
        and not any(isinstance(n, ast.Constant) and isinstance(n.value, float) for n in walk(both))
    )
