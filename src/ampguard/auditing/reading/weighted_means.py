"""Weighted means by hand: `np.nansum(x * weight) / np.nansum(weight)`, where all of the weights may be 0.

Weights count that are likelihoods, confidences or scores by their names: what a network found may be nothing at all.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero

_SUMS = ("sum", "nansum")
_LIBRARIES = ("torch", "np", "numpy", "jnp")
_WEIGHTS = regex(r"(^|_)(like|likelihoods?|conf|confidences?|visib(le|ility)|scores?)$", re.IGNORECASE)
_MENDS = regex(
    r"(?<![a-z])eps|1e-|clamp|clip|where\(|maximum|nan_to_num|isnan|isfinite|errstate|[=!]= ?0\b"
    r"|softmax|average\(|exp\("
)


def weighted_mean(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return the zero of a sum of weights, under the sum of what is multiplied by them."""
    if not module.mentions(("sum(",)):
        return None
    weights, total = _summed(module, right), _summed(module, left)
    place = key(weights)
    if total is None or place is None or not _WEIGHTS.search(place.rpartition(".")[2]):
        return None
    if not isinstance(total, ast.BinOp) or not isinstance(total.op, ast.Mult):
        return None
    function = module.tree.function(right)
    if not any(place == key(n) for n in walk(total)) or function is None:
        return None
    if _MENDS.search(module.text_of(function)) or _is_asked(module.text_of(function), place):
        return None
    return Zero("void", f"is 0 where every `{place}` is", right.lineno, frozenset({spelling(right), place}))


def _is_asked(text: str, place: str) -> bool:
    name = re.escape(place)
    asked = rf"\b(if|assert|while)\b[^\n]*\b{name}\b|\b{name}(\.sum\(\))? *([<>]=?|[!=]=) ?\S|\b{name} \+ "
    return bool(re.search(asked, text))


def _summed(module: Module, node: ast.expr, depth: int = 0) -> ast.expr | None:
    """Return what a sum adds up; a name may stand between."""
    if isinstance(node, ast.Name) and depth < 2:
        values = assigned(module, node)
        return _summed(module, values[0], depth + 1) if len(values) == 1 else None
    if not isinstance(node, ast.Call) or called(node) not in _SUMS:
        return None
    owner = receiver(node)
    if owner is None or key(owner) in _LIBRARIES:
        return node.args[0] if owner is not None and node.args else None
    return owner
