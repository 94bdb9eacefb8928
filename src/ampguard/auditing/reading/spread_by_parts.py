"""What a spread is the spread of: what is divided, something worked out from it, or what a scale is made for.

`ref = wav.mean(0); wav /= ref.std()` divides by the spread of a part; `scale = 255 / (hi - lo)` is a scale for what
`hi` and `lo` are the extremes of, and inf for a constant one.
"""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.constants import number
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver

_SHAPES = frozenset(
    {"mean", "sum", "abs", "flatten", "reshape", "view", "ravel", "astype", "float", "double", "permute"}
)
_SAME = frozenset({"squeeze", "unsqueeze", "transpose", "numpy", "cpu", "detach", "clone", "copy", "contiguous"})


def is_spread_of(module: Module, left: ast.expr, right: ast.expr, over: ast.expr) -> bool:
    """Whether a spread, that of `over`, is one of what is divided by it: by its parts, or by a number for a scale."""
    if isinstance(right, ast.BinOp | ast.Name) and not isinstance(left, ast.Name | ast.Attribute):
        return number(module, left) is not None and _is_range(module, right)
    place = key(left)
    values = assigned(module, over) if isinstance(over, ast.Name) else []
    return place is not None and len(values) == 1 and _base(values[0]) == place


def _is_range(module: Module, right: ast.expr) -> bool:
    values = assigned(module, right) if isinstance(right, ast.Name) else [right]
    return len(values) == 1 and isinstance(values[0], ast.BinOp)


def _base(node: ast.expr) -> str | None:
    """Return what an array was worked out from, by calls that keep a constant one constant."""
    while True:
        if isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and called(node) in (_SHAPES | _SAME) and (owner := receiver(node)) is not None:
            node = owner
        else:
            return key(node)
