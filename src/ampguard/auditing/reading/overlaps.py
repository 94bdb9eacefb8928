"""Overlaps of two masks, Dice and IoU: the sums of both in the denominator are 0 where neither has an element.

`2 * both / (prediction.sum() + target.sum())` of an empty slice or a class that does not occur is NaN, and spoils the
mean that it goes into. A smoothing term, an epsilon or a question on the way ends the matter.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.number_types import is_number
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_OVERLAPS = regex(r"dice|jaccard|tversky|(^|_)m?ious?(_|$)|IoU|f1|fscore|f_score", re.IGNORECASE)
_WORDS = ("dice", "Dice", "accard", "versky", "iou", "IoU", "IOU", "f1", "F1", "score")
_MENDS = regex(r"eps|smooth|1e-|1e\d|clamp|clip|where\(|maximum|nan_to_num|max\(|isfinite|isnan|errstate|== 0|> 0")


def overlap(module: Module, right: ast.expr) -> Zero | None:
    """Return the zero of a sum of sums, `a.sum() + b.sum()`, in a function that is named for an overlap."""
    if not isinstance(right, ast.BinOp | ast.Name | ast.Call) or not module.mentions(_WORDS):
        return None
    function = next((n for n in module.tree.above(right) if isinstance(n, FUNCTIONS)), None)
    if function is None or not any(
        _OVERLAPS.search(n.name) for n in module.tree.above(right) if isinstance(n, (*FUNCTIONS, ast.ClassDef))
    ):
        return None
    values = assigned(module, right) if isinstance(right, ast.Name) else [right]
    sums = _summed(module, values[0]) if len(values) == 1 else 0
    if sums < 2 or _MENDS.search(module.text_of(function)):
        return None
    what = module.segment(right, 40)
    return Zero("relative", f"is 0 where both masks of `{what}` are empty", right.lineno, frozenset({spelling(right)}))


_RATES = regex(r"precision|recall|sensitivity|specificity|f1|f_?(beta_?)?score|rand|metric", re.IGNORECASE)
_COUNTS = regex(r"^(tp|fp|fn|tn|precision|recall|prec|rec|sens\w*|spec\w*|(true|false)_(pos|neg)\w*)s?$", re.IGNORECASE)


def rate(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`tp / (tp + fp)` of arrays or tensors in a metric: NaN for a class that does not occur, and for all of a mean."""
    if not (isinstance(right, ast.BinOp) and isinstance(right.op, ast.Add)):
        return None
    parts = [key(side) or "" for side in (right.left, right.right)]
    if not all(_COUNTS.search(part.rpartition(".")[2]) for part in parts):
        return None
    function = next((n for n in module.tree.above(right) if isinstance(n, FUNCTIONS)), None)
    if function is None or not {key(n) for n in walk(left)} & set(parts) or is_number(module, left):
        return None
    named = any(_RATES.search(n.name) for n in module.tree.above(right) if isinstance(n, (*FUNCTIONS, ast.ClassDef)))
    if not named or _MENDS.search(module.text_of(function)):
        return None
    why = f"is 0 where `{parts[0]}` and `{parts[1]}` are, as for a class that does not occur"
    return Zero("relative", why, right.lineno, frozenset({spelling(right), *parts}))


def _summed(module: Module, node: ast.expr, *, depth: int = 0) -> int:
    """Return how many sums over tensors an addition adds up; -100 where there is anything else in it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        left, right = _summed(module, node.left, depth=depth), _summed(module, node.right, depth=depth)
        return left + (right if isinstance(node.op, ast.Add) or right < 0 else 0)
    if isinstance(node, ast.Name) and depth < 2:
        values = assigned(module, node)
        return _summed(module, values[0], depth=depth + 1) if len(values) == 1 else -100
    inner = node
    while isinstance(inner, ast.Call) and called(inner) in ("item", "float") and isinstance(inner.func, ast.Attribute):
        inner = inner.func.value
    if not isinstance(inner, ast.Call) or called(inner) not in ("sum", "count_nonzero"):
        return -100
    summed = inner.args[0] if inner.args else receiver(inner)
    both = isinstance(summed, ast.BinOp) and isinstance(summed.op, ast.Add)
    return 2 if both and all(map(_is_of_a_mask, (summed.left, summed.right))) else 1  # type: ignore[union-attr]


def _is_of_a_mask(node: ast.expr) -> bool:
    """Whether a part of a sum is a name, or its square: `sum(a ** 2 + b ** 2)` holds both masks."""
    squared = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.Mult)
    return key(node.left if squared else node) is not None  # type: ignore[attr-defined]
