"""Degrees of the nodes of a graph and sums of rows as divisors: 0 for a node, or a class, that nothing belongs to.

`update / degree_out.sqrt()` and `h.div(row_sum)` are NaN for an isolated node, and so is all that it sends on.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver
from ampguard.auditing.reading.zeros import Zero

_WORDS = ("degree", "deg", "rowsum", "row_sum")
_DEGREES = regex(r"^(in_|out_|node_)?deg(ree)?s?(_in|_out)?$")
_ROWS = regex(r"(^|_)row_?sums?$")
_GRAPHS = regex(r"edge_index|edge_list|\bgraph\b|\badj|scatter|spmm|sparse", re.IGNORECASE)
_TURNED = ("sqrt", "unsqueeze", "squeeze", "view", "reshape", "float", "to", "expand", "t", "transpose", "flatten")
_MENDS = regex(
    r"(?<![a-z])eps|1e-|clamp|clip|where\(|maximum|\bmax\(|nan_to_num|isinf|isnan|isfinite|errstate|[=!]= ?0\b|> ?0\b"
    r"|self_?loop|masked_fill|\+ ?1\b|\binf\b|float\('inf'\)|\beye\("
)
_ASSERTED = regex(r"^\s*assert\b.*$", re.MULTILINE)
"""What only finds the NaN out mends nothing."""


def degree(module: Module, right: ast.expr) -> Zero | None:
    """Return the zero of a degree, or of a row's sum, that nothing in the function or its class adds to."""
    if isinstance(right, ast.Constant) or not module.mentions(_WORDS):
        return None
    places = [part for part in _parts(module, right) if _is_degree(module, part)]
    function = next((n for n in module.tree.above(right) if isinstance(n, FUNCTIONS)), None)
    if not places or function is None or _MENDS.search(_ASSERTED.sub("", module.text_of(function))):
        return None
    what = module.segment(places[0], 30)
    of = "row in which nothing is" if _ROWS.search(_name(places[0])) else "node without a neighbour"
    return Zero("void", f"is 0 for a {of} (`{what}`)", right.lineno, frozenset({spelling(right), spelling(places[0])}))


def _parts(module: Module, node: ast.expr, depth: int = 0) -> Iterator[ast.expr]:
    """Walk what a divisor is made of, behind roots, products, indices and names of these."""
    while True:
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant | ast.UnaryOp):
            node = node.value
        elif isinstance(node, ast.Call) and called(node) in _TURNED and (inner := _inner(node)) is not None:
            node = inner
        else:
            break
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _parts(module, node.left, depth)
        yield from _parts(module, node.right, depth)
        return
    yield node
    values = assigned(module, node) if isinstance(node, ast.Name) and depth < 2 else []
    if len(values) == 1 and not _is_degree(module, node):
        yield from _parts(module, values[0], depth + 1)


def _inner(call: ast.Call) -> ast.expr | None:
    owner = receiver(call)
    return call.args[0] if owner is not None and key(owner) in ("torch", "np", "numpy") and call.args else owner


def _name(node: ast.expr) -> str:
    return (key(node) or "").rpartition(".")[2]


def _is_degree(module: Module, node: ast.expr) -> bool:
    """Whether a name is that of a degree, in a file about graphs, or of the sums of rows, and is given as such."""
    if not isinstance(node, ast.Name | ast.Attribute):
        return False
    values = assigned(module, node)
    if _ROWS.search(_name(node)):
        return len(values) == 1 and isinstance(values[0], ast.Call)
    given = [v for v in values if isinstance(v, ast.Constant | ast.BinOp)]
    return not given and bool(_DEGREES.search(_name(node))) and bool(_GRAPHS.search(module.text))
