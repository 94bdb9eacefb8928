"""Divisions whose two sides tell together that the right one may be zero: errors relative to a target, masked means.

`(target - prediction) / target` is inf where a target is 0; `(loss * mask).sum() / mask.sum()` is NaN for a batch in
which nothing is left; an edit distance over the length of a text has no length for an empty one. Tensors raise nothing,
but a loss or a metric of inf or NaN spoils the sum that it goes into.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_RELATIVE = regex(
    r"(^|_)(s?mape|r?ms?pe|rmspe|perc(ent(age)?)?|relative|rel|relerr)(_|$)|percent|relative", re.IGNORECASE
)
_DIFFERENCES = regex(r"^(delta|diff|difference|err|errors?|residuals?)s?$", re.IGNORECASE)
_TARGETS = regex(
    r"(^|_)(y|y_?true|true|targets?(_vals?)?|labels?|gt|ground_?truth|actual|real|ref(erence)?)(_|$)", re.IGNORECASE
)
_MASKS = regex(r"(^|_)(mask|masks|valid|keep|padding|attention_mask|weights?|indicator)(_|\d|$)", re.IGNORECASE)
_DISTANCES = regex(r"^((edit|levenshtein|hamming|word|char)\w*|distance|levenshtein|lev|wer|cer|eval)$", re.IGNORECASE)
_MENDS = regex(r"(?<![a-z])eps|1e-|clamp|clip|where\(|maximum|nan_to_num|\bmax\(|isfinite|isnan|errstate")
_MEASURES = regex(
    r"loss|criterion|error|metric|accuracy|acc\b|score|mean|nll|perplexity|dice|iou|entropy", re.IGNORECASE
)

_LOSSES = regex(r"loss|criterion|(^|_)nll|(^|_)ce$", re.IGNORECASE)


def related(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return why the right side may be zero, by what the left side makes of it."""
    if isinstance(right, ast.Call):
        return _distance(module, left, right) or _masked_mean(module, left, right)
    if isinstance(right, ast.Name | ast.Attribute):
        return _relative(module, left, right) or _masked_mean(module, left, right)
    return None


def _relative(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`(targets - predictions) / targets` in a loss or metric that is named for it."""
    place = key(right) or ""
    if not _TARGETS.search(place.rpartition(".")[2]):
        return None
    around = next((n for n in module.tree.above(right) if isinstance(n, FUNCTIONS)), None)
    names = [n.name for n in module.tree.above(right) if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
    differences = (n for n in walk(left) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Sub))
    given = any(isinstance(n, ast.Name) and _DIFFERENCES.search(n.id) for n in walk(left))
    if around is None or not any(_RELATIVE.search(name) for name in names):
        return None
    if not given and not any(place in (key(n.left), key(n.right)) for n in differences):
        return None
    if _mended(module, around):
        return None
    why = f"is 0 where an element of `{module.segment(right, 30)}` is, and the error then inf or NaN"
    return Zero("relative", why, right.lineno, frozenset({spelling(right)}))


def _masked_mean(module: Module, left: ast.expr, right: ast.Call | ast.Name | ast.Attribute) -> Zero | None:
    """`(loss * mask).sum() / mask.sum()`, `loss[mask].sum() / mask.sum()`, also with `loss = loss * mask` before.

    The count may have a name of its own (`n = mask.sum()`), and so may the sum.
    """
    mask = _cast_from(_summed(_counting(module, right)))
    place = _place_of(mask)
    if mask is None or not _MASKS.search(place.partition("[")[0].rpartition(".")[2]):
        return None
    function = module.tree.function(right)
    if function is None or not _measures(module, left, right) or _mended(module, function):
        return None
    totals = (_summed(value) for value in _values(module, left, but=right))
    if not any(total is not None and _holds(module, total, place, right) for total in totals):
        return None
    if any(_asked(module, function, p) for p in {place, key(right) or place}):
        return None
    why = f"is 0 where `{module.segment(mask, 30)}` leaves nothing, as in a batch of padding"
    return Zero("positives", why, right.lineno, frozenset({spelling(right)}))


def _counting(module: Module, right: ast.expr) -> ast.expr:
    """Return the call behind a name that holds nothing else: `n = mask.sum()`."""
    values = assigned(module, right) if isinstance(right, ast.Name) else []
    return values[0] if len(values) == 1 else right


def _place_of(mask: ast.expr | None) -> str:
    """Return how a mask is spelt; with its index where it is one of several: "masks[i]"."""
    if isinstance(mask, ast.Subscript) and isinstance(mask.slice, ast.Name | ast.Constant):
        return spelling(mask)
    return key(mask) or ""


def _measures(module: Module, left: ast.expr, right: ast.expr) -> bool:
    """Whether a division gives a loss or a metric, as the names around it say, or a loss by that of what keeps it."""
    above = (n.name for n in module.tree.above(right) if isinstance(n, (*FUNCTIONS, ast.ClassDef)))
    if any(_MEASURES.search(name) for name in above):
        return True
    statement = module.tree.statement(right)
    kept = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return any(_LOSSES.search(key(node) or "") for node in (kept, left, _summed(left)))


def _distance(module: Module, left: ast.expr, right: ast.Call) -> Zero | None:
    """`edit_distance(prediction, text) / len(text)`."""
    over = right.args[0] if called(right) == "len" and receiver(right) is None and len(right.args) == 1 else None
    place = key(over)
    if over is None or place is None:
        return None
    for call in (n for value in _values(module, left, but=right) for n in walk(value) if isinstance(n, ast.Call)):
        named = called(call) if called(call) != "eval" else key(receiver(call)) or ""
        if (_DISTANCES.search(named) or "editdistance" in named) and place in {key(a) for a in call.args}:
            why = f"is 0 where `{module.segment(over, 30)}` is empty"
            return Zero("text", why, right.lineno, frozenset({spelling(right), place}))
    return None


def _values(module: Module, left: ast.expr, *, but: ast.expr) -> Iterator[ast.expr]:
    """Walk an expression and what its name was assigned, but for the assignment of the division itself."""
    yield left
    if isinstance(left, ast.Name):
        own = module.tree.statement(but)
        yield from (value for value in assigned(module, left) if value is not getattr(own, "value", None))


def _holds(module: Module, total: ast.expr, place: str, right: ast.expr) -> bool:
    """Whether what is summed is made with a place, by itself or by what its name was assigned."""
    values = _values(module, total, but=right)
    return any(place in {_place_of(n) for n in walk(value) if isinstance(n, ast.expr)} for value in values)


def _cast_from(node: Any) -> Any:
    """Return what stands before `.float()`, `.to(...)`, `.item()` and the like."""
    while isinstance(node, ast.Call) and called(node) in _CASTS and receiver(node) is not None:
        node = receiver(node)
    return node


_CASTS = ("float", "to", "item", "double", "long", "int", "bool", "type")


def _summed(node: ast.expr) -> ast.expr | None:
    """Return what `x.sum()`, `torch.sum(x)` or either behind `.float()` adds up, all of it; None for another one."""
    node = _cast_from(node)
    if not isinstance(node, ast.Call) or called(node) != "sum":
        return None
    owner = receiver(node)
    functional = isinstance(owner, ast.Name) and owner.id in ("torch", "np", "numpy", "jnp")
    rest = node.args[1:] if functional else node.args
    if rest or node.keywords:
        return None
    return (node.args[0] if node.args else None) if functional else owner


def _mended(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return bool(_MENDS.search(module.text_of(function)))


def _asked(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef, place: str) -> bool:
    """Whether the function asks about the mask: `mask.any()`, `if mask.sum() == 0`."""
    text = module.text_of(function)
    name = re.escape(place)
    return bool(re.search(rf"\b{name}\.(any|all)\(|\b(if|assert) [^\n]*\b{name}(?!\w)|any\({name}\)", text))
