"""Counters of micro-batches that start anew where the step is: counted up in ones or in samples, or down to 0."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Loop, called, key, walk

_SAMPLES = regex(r"batch|size|samples|(^|_)bsz?$|(^|_)n$|(^|_)num", re.IGNORECASE)


def counted(module: Module, test: ast.expr, loop: Loop | Function, branch: ast.If) -> ast.expr | None:
    """Return k of a test of what the loop counts, where its branch starts the count anew.

    `count >= k` and `seen >= batch_size` with the count set to 0, `left == 0` with the count set to k.
    """
    for node in test.values if isinstance(test, ast.BoolOp) else [test]:
        place = key(node.left) if isinstance(node, ast.Compare) else None
        if place is None or not isinstance(node, ast.Compare):
            continue
        starts_anew = _given(module, place, branch, zero=True) is not None
        if starts_anew and isinstance(node.ops[0], ast.GtE | ast.Eq | ast.Gt) and _counts_up(module, place, loop):
            return node.comparators[0]
        if isinstance(node.ops[0], ast.Eq | ast.LtE) and _is_number(node.comparators[0], 0):
            first = _given(module, place, branch, zero=False)
            if first is not None and _counts_down(module, place, loop):
                return first
        if isinstance(node.ops[0], ast.GtE | ast.Eq) and _of_a_list(module, place, branch) is not None:
            return node.comparators[0]
    return None


def _of_a_list(module: Module, place: str, branch: ast.If) -> str | None:
    """Return the list of counters that a loop around the branch walks, where the branch sets the one it is at to 0."""
    loop = next(module.tree.loops(branch), None)
    names = {n.id for n in walk(loop.target) if isinstance(n, ast.Name)} if isinstance(loop, ast.For) else set()
    for node in module.tree.all(ast.Assign) if place in names and isinstance(loop, ast.For) else ():
        if not isinstance(node.targets[0], ast.Subscript) or not module.tree.inside(node, branch):
            continue
        counters = key(node.targets[0].value)
        if _is_number(node.value, 0) and counters in {key(n) for n in walk(loop.iter)}:  # type: ignore[union-attr]
            return counters
    return None


def starts_with_loop(module: Module, test: ast.expr, branch: ast.If, loop: ast.For) -> bool:
    """Whether the counter of a test starts at 0 right before the loop over batches, so that no rest is carried on."""
    place = key(test.left) if isinstance(test, ast.Compare) else None
    place = place and (_of_a_list(module, place, branch) or place)
    if not place or not place.isidentifier():
        return False
    block = module.tree.parents[loop]
    return any(
        n.lineno < loop.lineno and module.tree.parents[n] is block and key(n.targets[0]) == place
        for n in module.tree.all(ast.Assign)
    )


def carries_on(module: Module, test: ast.expr, loop: ast.For) -> bool:
    """Whether the count in a remainder goes on from one loop over batches to the next, so that no rest is lost.

    It is counted up in the loop, and the function gives it its first value before a loop around that one.
    """
    counts = {key(n.left) for n in ast.walk(test) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod)} - {None}
    around = list(module.tree.loops(loop))
    if len(counts) != 1 or not around:
        return False
    place = counts.pop()
    up = any(key(n.target) == place and module.tree.inside(n, loop) for n in module.tree.all(ast.AugAssign))
    given = [n for n in module.tree.all(ast.Assign) if any(key(t) == place for t in n.targets)]
    scope = module.tree.function(loop)
    here = [n for n in given if module.tree.function(n) is scope]
    return up and bool(here) and not any(module.tree.inside(n, around[-1]) for n in here)


def not_yet(module: Module, test: ast.expr, loop: Loop | Function) -> ast.expr | None:
    """Return k of `if count < k: continue` where the loop counts up in ones and starts the count anew behind it."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Lt | ast.NotEq):
        return None
    place = key(test.left)
    known = place and _counts_up(module, place, loop) and _given(module, place, loop, zero=True) is not None
    return test.comparators[0] if known else None


def _counts_up(module: Module, place: str, loop: Loop | Function) -> bool:
    ups = (n for n in module.tree.all(ast.AugAssign) if key(n.target) == place and isinstance(n.op, ast.Add))
    return any(_counts_samples(n.value) and _shares(module, n, loop) for n in ups)


def _counts_down(module: Module, place: str, loop: Loop | Function) -> bool:
    downs = (n for n in module.tree.all(ast.AugAssign) if key(n.target) == place and isinstance(n.op, ast.Sub))
    return any(_is_number(n.value, 1) and _shares(module, n, loop) for n in downs)


def _counts_samples(value: ast.expr) -> bool:
    """Whether what is added is 1, or the number of samples of a batch."""
    if isinstance(value, ast.Subscript):
        return isinstance(value.value, ast.Attribute) and value.value.attr == "shape"
    if isinstance(value, ast.Call):
        return called(value) in ("len", "size")
    word = (key(value) or "").rpartition(".")[2]
    return _is_number(value, 1) or bool(word and _SAMPLES.search(word))


def _is_number(node: ast.expr, number: int) -> bool:
    return isinstance(node, ast.Constant) and node.value == number and not isinstance(node.value, bool)


def _shares(module: Module, node: ast.AST, loop: Loop | Function) -> bool:
    """Whether a node runs in the passes of a loop or of one around it."""
    return module.tree.inside(node, loop) or next(module.tree.loops(node), None) in list(module.tree.loops(loop))


def _given(module: Module, place: str, branch: ast.AST, *, zero: bool) -> ast.expr | None:
    """Return what a branch gives a counter anew: 0, or else a name of k."""
    for node in module.tree.all(ast.Assign):
        if not any(key(t) == place for t in node.targets) or not module.tree.inside(node, branch):
            continue
        if zero is _is_number(node.value, 0) and (zero or key(node.value) is not None):
            value: ast.expr = node.value
            return value
    return None
