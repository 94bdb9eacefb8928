"""Loops over the pieces that one batch was cut into, which are micro-batches whatever their names say."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, receiver, walk

_WALKS = ("zip", "enumerate", "tqdm", "list")


def goes_over_pieces(module: Module, loop: ast.For | ast.While) -> bool:
    """Whether a loop goes over the pieces that one batch was cut into: `for x, y in zip(xs.split(n), ys.split(n))`."""
    if walks_slices(loop):
        return True
    over = [loop.iter] if isinstance(loop, ast.For) else []
    seen: set[ast.AST] = set()
    while over:
        node = over.pop()
        if node in seen:
            continue
        seen.add(node)
        values = assigned(module, node) if isinstance(node, ast.Name) else [node]
        for value in (v for v in values if isinstance(v, ast.Call)):
            if called(value) in _WALKS and receiver(value) is None:
                over += value.args
            elif called(value) in ("split", "chunk", "tensor_split") and _cuts_tensors(value):
                return True
    return False


def _cuts_tensors(call: ast.Call) -> bool:
    """Whether a cut is one of a tensor into pieces of a size or a number, not one of a text at a word."""
    given = [*call.args, *(k.value for k in call.keywords)]
    return bool(given) and not any(isinstance(g, ast.Constant) and isinstance(g.value, str) for g in given)


def walks_slices(loop: ast.For | ast.While) -> bool:
    """Whether a loop goes over the slices of a batch: `for at in range(0, len(x), n)` with `x[at : at + n]` in it."""
    if not isinstance(loop, ast.For):
        return False
    over, at = loop.iter, loop.target
    if not isinstance(over, ast.Call) or called(over) != "range" or len(over.args) != 3 or not isinstance(at, ast.Name):
        return False
    if not isinstance(over.args[1], ast.Call | ast.Subscript | ast.Name):
        return False
    slices = (n.slice for n in walk(loop) if isinstance(n, ast.Subscript))
    return any(isinstance(s, ast.Slice) and isinstance(s.lower, ast.Name) and s.lower.id == at.id for s in slices)
