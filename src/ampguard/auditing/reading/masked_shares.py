"""Shares of what a mask leaves: a sum over some elements divided by how many there are, with nothing for none.

`(x * mask).sum(-1) / mask.sum(-1)` where `mask = labels != -100`, `(valid * (p == y)).sum() / valid.sum()`: a row, or
an image, in which the mask leaves nothing is NaN, and so is every mean that it goes into. The mask is known by what it
is made of (a comparison); by its name alone only where the sum above holds it.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_LIBRARIES = ("torch", "np", "numpy", "jnp")
_CASTS = (
    "float",
    "to",
    "item",
    "double",
    "long",
    "int",
    "bool",
    "type",
    "astype",
    "type_as",
    "cpu",
    "detach",
    "squeeze",
)
_MASKS = regex(
    r"^masks?$|(^|_)(loss|label|valid|target|response|action|pixel)_?masks?$|^valid(_pixels?)?$", re.IGNORECASE
)
"""Masks that may well leave nothing; an attention mask always leaves a token."""

_PADDING = regex(r"\bpad|_pad|padding|eos", re.IGNORECASE)
_MENDS = regex(r"nan_to_num|isnan|isfinite|errstate|nanmean|nansum|seterr|ZeroDivisionError|anomaly")
_DEPTH = 2


def masked_share(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return why the right side, a sum over a mask, may be zero, where the left side is a sum as well."""
    if not module.mentions(("sum(", "count_nonzero(")):
        return None
    counted, total = _summed(module, right), _summed(module, left)
    if counted is None or total is None:
        return None
    mask = _made_of(module, counted)
    certain = isinstance(mask, ast.Compare) and not _PADDING.search(ast.unparse(mask))
    place = key(counted) or ""
    if not certain and not (_MASKS.search(place.rpartition(".")[2]) and _holds(module, total, place)):
        return None
    divisor = key(cast_from(right)) or ""
    if is_mended(module, right, {place, divisor, *(_names(mask) if certain else ())} - {""}):
        return None
    what = module.segment(mask if certain else counted, 30)
    why = f"is 0 where `{what}` leaves nothing"
    return Zero("positives", why, right.lineno, frozenset({spelling(right), place, divisor} - {""}))


def _summed(module: Module, node: ast.expr, depth: int = 0) -> ast.expr | None:
    """Return what a sum adds up, along some dimension or all, behind names, casts and factors that are numbers."""
    node = cast_from(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        sides = [s for s in (node.left, node.right) if not isinstance(s, ast.Constant)]
        return _summed(module, sides[0], depth) if len(sides) == 1 else None
    if isinstance(node, ast.Name) and depth < _DEPTH:
        values = assigned(module, node)
        return _summed(module, values[0], depth + 1) if len(values) == 1 else None
    if isinstance(node, ast.Call) and _is_reduced(node):
        return node
    if not isinstance(node, ast.Call) or called(node) not in ("sum", "count_nonzero"):
        return None
    owner = receiver(node)
    if owner is None or key(owner) in _LIBRARIES:
        found = node.args[0] if owner is not None and node.args else None
    else:
        found = owner
    return cast_from(found) if found is not None else None


def _is_reduced(call: ast.Call) -> bool:
    """Whether a loss adds up what it is made of: `cross_entropy(x, y, ignore_index=255, reduction="sum")`."""
    given = (word.value for word in call.keywords if word.arg == "reduction")
    return any(isinstance(value, ast.Constant) and value.value == "sum" for value in given)


def cast_from(node: ast.expr) -> ast.expr:
    """Return what casts are of: `x` of `x.float().detach()`."""
    while isinstance(node, ast.Call):
        inner = receiver(node) if called(node) in _CASTS else None
        if isinstance(node.func, ast.Name) and called(node) in ("float", "int") and len(node.args) == 1:
            inner = node.args[0]
        if inner is None or key(inner) in _LIBRARIES:
            break
        node = inner
    return node


def _made_of(module: Module, node: ast.expr) -> ast.expr:
    """Return what a name of one value stands for."""
    values = assigned(module, node) if isinstance(node, ast.Name) else []
    return cast_from(values[0]) if len(values) == 1 else node


def _holds(module: Module, total: ast.expr, place: str) -> bool:
    values = [total, *(assigned(module, total) if isinstance(total, ast.Name) else ())]
    return any(place == key(n) for value in values for n in walk(value))


def _names(node: ast.AST) -> set[str]:
    """Return what an expression is made of, but for constants and the values of enumerations: `MaskValue.SEEN`."""
    places = (key(n) for n in walk(node) if isinstance(n, ast.Name | ast.Attribute))
    return {place for place in places if place and not place[0].isupper()}


def is_mended(module: Module, right: ast.expr, places: set[str], *, of_mask: bool = True) -> bool:
    """Whether the function asks about the mask, keeps its sum from zero, or sees to what is not a number.

    Of what is no mask, `x.max()` is no question.
    """
    function = module.tree.function(right)
    text = module.text_of(function) if function is not None else module.text
    if _MENDS.search(text) or any("mask" in ast.unparse(test) for test, _ in tests_before(module, right)):
        return True
    for place in places:
        name = rf"(?<![\w.]){re.escape(place)}\b"
        kept = (
            rf"\b(max|maximum|clamp\w*|clip|where|any|all|masked_fill|nonzero)\([^\n]*{name}",
            rf"{name}(\.sum\([^\n]*\))?\.(clamp\w*|clip|any|all{'|max' if of_mask else ''})\(",
            rf"\b(if|assert|while)\b[^\n]*{name}[^\n]*(sum|any|all|numel|count|len|size|[<>=]=?|:)",
            rf"{name}[^\n]*(\beps|epsilon|smooth|1e-|\+ 1\b|\.clamp|\bor 1\b)",
            rf"{name} *(\+=|\[[^\n]*\] *=)",
        )
        if any(re.search(pattern, text) for pattern in kept):
            return True
    return False
