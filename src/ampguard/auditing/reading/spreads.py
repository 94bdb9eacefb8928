"""Divisors that are zero for one plain input: the spread of a constant, the peak of silence, the length of no text."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.spread_by_parts import is_spread_of
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_ARRAYS = ("torch", "numpy", "np", "jax", "cupy")
_HOLDERS = ("float", "int", "detach", "cpu", "item", "unsqueeze", "view", "reshape", "squeeze")
_TEXT = regex(
    r"(^|[._])(text|sentence|string|words|tokens|chars|characters|paragraph|transcript|utterance|line|caption|prompt)s?$",
    re.IGNORECASE,
)


def spread(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`x / x.std()`, `x / x.abs().max()`, `(x - low) / (x.max() - x.min())` with nothing that keeps it from zero."""
    value = _value(module, right)
    over, what = _measured(module, value)
    if over is None or not (spelling(over) in _parts(left) or is_spread_of(module, left, right, over)):
        return None
    if _asked_about(module, right, over):
        return None
    return Zero(
        "spread", f"is 0 where `{module.segment(over, 30)}` is {what}", right.lineno, frozenset({spelling(right)})
    )


def _value(module: Module, node: ast.expr) -> ast.expr:
    """Return what a local name stands for, where it has one value, without calls that keep it 0 or not 0."""
    if isinstance(node, ast.Name):
        values = assigned(module, node)
        node = values[0] if len(values) == 1 else node
    while isinstance(node, ast.Call) and called(node) in _HOLDERS:
        inner = receiver(node) if isinstance(node.func, ast.Attribute) else node.args[0] if node.args else None
        if inner is None:
            break
        node = inner
    return node


def _measured(module: Module, node: ast.expr) -> tuple[ast.expr | None, str]:
    """Return what is measured, and for which input the measure is 0."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        high = _of(_value(module, node.left), "max", "amax")
        low = _of(_value(module, node.right), "min", "amin")
        same = high is not None and low is not None and spelling(high) == spelling(low)
        return (high, "constant") if same else (None, "")
    over = _of(node, "std")
    if over is not None:
        return over, "constant"
    peak = _of(node, "max", "amax")
    inner = _of(peak, "abs") if peak is not None else None
    return inner, "0 everywhere"


def _of(node: ast.expr | None, *names: str) -> ast.expr | None:
    """Return the array of `x.std()`, `torch.std(x)`, `x.max(0)[0]`, `x.max(0).values`; None for another call."""
    first = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == 0
    if first or (isinstance(node, ast.Attribute) and node.attr == "values"):
        node = node.value  # type: ignore[union-attr]
    if not isinstance(node, ast.Call) or called(node) not in names:
        return None
    owner = receiver(node)
    if owner is None or (isinstance(owner, ast.Name) and owner.id in _ARRAYS) or key(owner) == "torch.linalg":
        return node.args[0] if owner is not None and node.args else None
    return owner


def _parts(node: ast.expr) -> set[str]:
    """Return the spellings of what an expression is made of."""
    return {spelling(at) for at in walk(node) if isinstance(at, ast.Name | ast.Attribute | ast.Subscript | ast.Call)}


def _asked_about(module: Module, right: ast.expr, over: ast.expr) -> bool:
    """Whether the function compares the measure, mends its zeros, or the array is drawn at random or points around."""
    function = module.tree.function(right)
    text = ast.unparse(function) if function is not None else module.text
    place = re.escape(spelling(right))
    if re.search(rf"{place} ?([<>]|[!=]=)|\b{place}\[|(where|clip|clamp|maximum|nan_to_num)\w*\([^\n]*{place}", text):
        return True
    if isinstance(right, ast.BinOp):
        high, low = (re.escape(spelling(side)) for side in (right.left, right.right))
        if re.search(rf"{high} ?([<>]=?|[!=]=) ?{low}|{low} ?([<>]=?|[!=]=) ?{high}", text):
            return True
    made = assigned(module, over)
    calls = [called(c) for value in made for c in walk(value) if isinstance(c, ast.Call)]
    return any("rand" in name or name in ("cos", "sin") for name in calls)


def text_length(module: Module, right: ast.expr) -> Zero | None:
    """`sum(flags) / len(text)`, `n / len(line.split())`: no words in an empty text; by what is measured."""
    value = _value(module, right)
    if not isinstance(value, ast.Call) or called(value) != "len" or len(value.args) != 1:
        return None
    over, function = value.args[0], module.tree.function(right)
    if isinstance(over, ast.Name):
        made = assigned(module, over)
        over = made[0] if len(made) == 1 and _splits(made[0]) else over
        given = function is not None and any(a.arg == key(over) for a in function.args.args)
        if not _splits(over) and not (given and not made):
            return None
    if not _splits(over) and not _TEXT.search(key(over) or ""):
        return None
    why = f"is 0 where `{module.segment(over, 30)}` is empty"
    return Zero("text", why, right.lineno, frozenset({spelling(right), spelling(value), spelling(value.args[0])}))


def _splits(node: ast.expr) -> bool:
    """Whether an expression is the words of a text: `text.split()`; with a separator the list is never empty."""
    return (
        isinstance(node, ast.Call) and called(node) in ("split", "splitlines") and not node.args and not node.keywords
    )
