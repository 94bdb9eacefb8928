"""Shares of what two things have together or of the greater of the two, 0 where both have nothing.

`total = self.count + other.count; self.count / total` when two results are merged; `best / max(moved, best)`.
"""

import ast

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_COUNTS = regex(r"(^|_)(n|num|count|counts|total|samples?|weights?|hits|seen)(_|$)")
_COUNTED = regex(r"(^|[._])(n|num|counts?|moves?|moved|distances?|dist|paths?|lengths?|hits)(_|\b)|\blen\(")
_SIZES = regex(r"width|height|(^|[._])[wh](_|\d|$)|size|shape|dim|scale|rate|resolution|stride|channels?")


def part_of_both(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return the zero of a sum of the same count of two objects, or of the greater of two counted numbers."""
    if isinstance(right, ast.Call):
        return _of_the_greater(module, left, right)
    values = assigned(module, right) if isinstance(right, ast.Name) else []
    both = values[0] if len(values) == 1 else right
    if not isinstance(both, ast.BinOp) or not isinstance(both.op, ast.Add):
        return None
    one, other = both.left, both.right
    if not isinstance(one, ast.Attribute) or not isinstance(other, ast.Attribute) or one.attr != other.attr:
        return None
    parts = {key(one), key(other)} - {None}
    if len(parts) != 2 or not _COUNTS.search(one.attr) or not any(key(n) in parts for n in walk(left)):
        return None
    why = f"is 0 where `{key(one)}` and `{key(other)}` are"
    return Zero("nothing", why, right.lineno, frozenset({spelling(right), spelling(both), *(p for p in parts if p)}))


def _of_the_greater(module: Module, left: ast.expr, right: ast.Call) -> Zero | None:
    """`shortest / max(moved, shortest)`, of what is counted or measured on a way; sizes of images are never 0."""
    if called(right) != "max" or receiver(right) is not None or len(right.args) != 2 or right.keywords:
        return None
    spelt = [spelling(a) for a in right.args]
    if spelling(left) not in spelt or not all(key(a) is not None or isinstance(a, ast.Call) for a in right.args):
        return None
    known = [*spelt, *(ast.unparse(v) for a in right.args for v in assigned(module, a))]
    if any(_SIZES.search(text) for text in spelt) or not any(_COUNTED.search(text) for text in known):
        return None
    if any(isinstance(n, ast.Constant) for a in right.args for v in assigned(module, a) for n in _terms(v)):
        return None
    why = f"is 0 where `{module.segment(right.args[0], 30)}` and `{module.segment(right.args[1], 30)}` are"
    return Zero("nothing", why, right.lineno, frozenset({*spelt, spelling(right)}))


def _terms(node: ast.expr) -> list[ast.expr]:
    """Return what is added up: a number among it keeps the rest from 0."""
    both = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)
    return [*_terms(node.left), *_terms(node.right)] if both else [node]  # type: ignore[attr-defined]
