"""Batches cut into k pieces of a length that the settings tell: the last batch is shorter, and so are its last pieces.

Each piece's mean loss is divided by k all the same: a short piece weighs as much as a whole one, and the mean of an
empty one is no number.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, walk
from ampguard.auditing.rules.amp._accumulation.loops import names_k

_SIZE = regex(r"(^|[._])(batch_?size|bs|bsz)$|batch_size")
_WHOLE = regex(r"drop_last\s*[=:]\s*(?!False)|drop_remainder|(len\(|\.shape\[|\.size\()[^\n]*%")
"""What keeps a batch from being shorter than the settings say, or asks whether it can be cut."""
_OWN_LENGTH = regex(r"\blen\(|\.shape\b|\.size\(|numel\(|\bsum\(")


def unequal_pieces(module: Module) -> Iterator[tuple[ast.expr, ast.expr, ast.expr]]:
    """Walk (the division of the loss, k, the length of a piece), once a loop over pieces."""
    if not module.mentions(("//",)) or module.role == "test" or _WHOLE.search(module.about("drop_", "%")):
        return
    passes = [c for name, calls in module.calls.items() if "backward" in name for c in calls]
    for loop in {loop for call in passes for loop in module.tree.loops(call)}:
        count = _count(loop)
        length = _length_of_pieces(module, loop, count) if count is not None else None
        division = _division(loop, count) if length is not None and count is not None else None
        if count is not None and length is not None and division is not None:
            yield division, count, length


def _count(loop: Loop) -> ast.expr | None:
    """Return k of `for i in range(k)`."""
    over = loop.iter if isinstance(loop, ast.For) else None
    plain = isinstance(over, ast.Call) and called(over) == "range" and len(over.args) == 1
    return over.args[0] if plain else None  # type: ignore[union-attr]


def _length_of_pieces(module: Module, loop: Loop, count: ast.expr) -> ast.expr | None:
    """Return n of `batch[i * n : (i + 1) * n]`, where it is a setting's batch size divided by k."""
    at = key(loop.target) if isinstance(loop, ast.For) else None
    for node in walk(loop):
        if not isinstance(node, ast.Slice) or not isinstance(node.lower, ast.BinOp):
            continue
        if not isinstance(node.lower.op, ast.Mult) or at is None:
            continue
        sides = (node.lower.left, node.lower.right)
        length = next((side for side in sides if key(side) != at), None)
        if length is None or all(key(side) != at for side in sides):
            continue
        values = assigned(module, length) if isinstance(length, ast.Name) else [length]
        if len(values) == 1 and _is_share(values[0], count):
            return length
    return None


def _is_share(value: ast.expr, count: ast.expr) -> bool:
    """Whether a value is a setting's batch size divided by k, not the length of what is there."""
    if not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.FloorDiv):
        return False
    whole = key(value.left)
    return key(value.right) == key(count) is not None and whole is not None and bool(_SIZE.search(whole))


def _division(loop: Loop, count: ast.expr) -> ast.expr | None:
    """Return the division by k of a loop that weighs nothing by its own length."""
    nodes = [n for n in walk(loop) if isinstance(n, ast.BinOp)]
    if any(isinstance(n.op, ast.Mult) and _OWN_LENGTH.search(ast.unparse(n)) for n in nodes):
        return None
    return next((n for n in nodes if isinstance(n.op, ast.Div) and names_k(n.right, count)), None)
