"""What is divided by its own total, mean or peak: 0 where all of it is, and the result is NaN.

`weight / weight.mean()`, `attention / attention.sum(-1, keepdim=True)`, `image / image.max()`, and the weighted mean
`(x * weight).sum() / weight.sum()`. What is positive by the way it is made (softmax, exp, a kernel of distances,
random or counted numbers) is none of it, nor are the features of a network, of which something is never 0.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.masked_shares import cast_from, is_mended
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_TOTALS = ("sum", "nansum", "mean", "nanmean", "max", "amax", "median")
_WORDS = tuple(f"{name}(" for name in _TOTALS)
_LIBRARIES = ("torch", "np", "numpy", "jnp")
_POSITIVE = regex(
    r"softmax|sigmoid|softplus|exp\(|exp2\(|rand|ones|arange|linspace|window|gauss|kernel|outer|normal|histc|bincount"
    r"|bartlett|hann|pow\(|logspace|dirichlet|priors?\b|\+ ?[\d.]|\beps|clamp|clip|triang|range\("
    r"|\bpad|_pad|padding|eos"
)
_NAMES = regex(
    r"kernel|window|gauss|filt|prior|prob|basis|gamma|sigma|betas?$|alphas?$|axis|direction|normal|embed|feat|exp_avg|att\w*_mask|pad"
    r"|^k\dd$|^self$",
    re.IGNORECASE,
)
_DEPTH = 2


def own_total(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return the zero of a total of what stands to the left."""
    if module.role == "test" or not module.mentions(_WORDS):
        return None
    held = _totalled(module, right)
    if held is None:
        return None
    what = spelling(held)
    if not _holds(module, left, what) or _is_positive(module, held):
        return None
    if is_mended(module, right, {name for name in (key(held), key(cast_from(right))) if name}, of_mask=False):
        return None
    why = f"is 0 where all of `{module.segment(held, 30)}` is"
    return Zero("void", why, right.lineno, frozenset({spelling(right), what}))


def _totalled(module: Module, node: ast.expr, depth: int = 0) -> ast.expr | None:
    """Return what a total is of; a name of one value may stand between."""
    node = cast_from(node)
    if isinstance(node, ast.Name) and depth < _DEPTH:
        values = assigned(module, node)
        return _totalled(module, values[0], depth + 1) if len(values) == 1 else None
    if not isinstance(node, ast.Call) or called(node) not in _TOTALS:
        return None
    owner = receiver(node)
    if owner is None:
        return None
    if key(owner) in _LIBRARIES:
        return cast_from(node.args[0]) if node.args and len(node.args) < 3 else None
    return None if module.names.dotted(owner) else cast_from(owner)  # `statistics.median(values)` is of the values


def _holds(module: Module, left: ast.expr, what: str) -> bool:
    """Whether the left side is the thing, or made of it by products and totals; behind a name as well."""
    parts = [left, *(assigned(module, left) if isinstance(left, ast.Name) else ())]
    return any(spelling(n) == what for part in parts for n in walk(part) if isinstance(n, ast.expr))


def _is_positive(module: Module, held: ast.expr) -> bool:
    values = assigned(module, held) if isinstance(held, ast.Name) else []
    texts = [ast.unparse(v) for v in values] or [ast.unparse(held)]
    name = (key(held) or "").rpartition(".")[2]
    return bool(_NAMES.search(name)) or any(_POSITIVE.search(text) for text in texts)
