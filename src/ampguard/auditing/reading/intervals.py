"""Lengths of intervals and sums of lengths: `(step - warmup) / (total - warmup)`, `sum(len(x) for x in parts)`."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.constants import number
from ampguard.auditing.reading.guards import spelled, spelling, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.quotients import compares, is_length
from ampguard.auditing.reading.reaching import reaching
from ampguard.auditing.reading.tree import argument, called, key, walk
from ampguard.auditing.reading.zeros import Zero


def interval(module: Module, left: ast.expr, right: ast.expr) -> Zero | None:
    """`(x - low) / (high - low)`: zero where the two ends are equal, and no test of the function compares them."""
    length = _difference(module, right)
    if length is None or key(length.left) == key(length.right) or compares(module, length):
        return None
    fixed = [number(module, side, defaults=False) is not None for side in (length.left, length.right)]
    if any(fixed) and not _set_from_outside(module, length):
        return None
    ends = {spelling(length.left), spelling(length.right)}
    parts = (n for n in walk(left) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Sub))
    within = [n for n in parts if ends & {spelling(n.left), spelling(n.right)}]
    if not within or any(_lies_inside(module, n.left, length) for n in within):
        return None
    why = f"is 0 where `{module.segment(length.left, 30)}` equals `{module.segment(length.right, 30)}`"
    return Zero("equal", why, length.lineno, frozenset(spelled(length) | spelled(right)))


def _set_from_outside(module: Module, length: ast.BinOp) -> bool:
    """Whether the numbers are names that a configuration may overwrite: by `exec(open(...))`, by `globals()[k]`."""
    named = isinstance(length.left, ast.Name) and isinstance(length.right, ast.Name)
    return named and ("exec(" in module.text or "globals()" in module.text)


def _lies_inside(module: Module, value: ast.expr, length: ast.BinOp) -> bool:
    """Whether the value is certainly greater than the low end, or below the high one: then the two are not equal.

    Greater: by a test on the way. Below: as the index of a `range` up to the high end, with a test against the low one.
    """
    pair, asked = {spelling(value), spelling(length.right)}, False
    for test, truth in tests_before(module, length):
        for part in walk(test):
            if not isinstance(part, ast.Compare) or {spelling(part.left), spelling(part.comparators[0])} != pair:
                continue
            asked = True
            strict = (ast.Gt, ast.LtE) if spelling(part.left) == spelling(value) else (ast.Lt, ast.GtE)
            if isinstance(part.ops[0], strict[0] if truth else strict[1]):
                return True
    return asked and any(_counts_to(loop, value, length.left) for loop in module.tree.loops(length))


def _counts_to(loop: ast.AST, index: ast.expr, end: ast.expr) -> bool:
    over = getattr(loop, "iter", None)
    if not isinstance(over, ast.Call) or called(over) not in ("range", "trange") or not over.args:
        return False
    named = {spelling(n) for n in walk(loop.target) if isinstance(n, ast.Name)}  # type: ignore[attr-defined]
    return spelling(index) in named and spelling(over.args[1 if len(over.args) > 1 else 0]) == spelling(end)


def _difference(module: Module, node: ast.expr, *, named: bool = False) -> ast.BinOp | None:
    """Return `high - low`, of which the node may be a `float(...)` or a name."""
    while isinstance(node, ast.Call) and called(node) in ("float", "int") and len(node.args) == 1:
        node = node.args[0]
    if isinstance(node, ast.Name) and not named:
        found = reaching(module, (node.id,), node)
        value = found[0].value if len(found) == 1 and found[0].kind == "assign" else None
        return _difference(module, value, named=True) if value is not None else None
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub):
        return None
    return node if key(node.left) is not None and key(node.right) is not None else None


def sum_of_lengths(module: Module, node: ast.expr) -> Zero | None:
    """`sum(len(part) for part in parts)`: zero where there is no part, or every one is empty."""
    if not isinstance(node, ast.ListComp | ast.GeneratorExp) or not is_length(module, node.elt):
        return None
    return Zero("empty", "is a sum of lengths, 0 where nothing is in any of them", node.lineno)


def incomplete_batches(module: Module, node: ast.expr) -> Zero | None:
    """`len(loader)` of a loader that drops its last batch: zero where the data set is smaller than a batch."""
    made = [v for v in assigned(module, node) if isinstance(v, ast.Call)] if key(node) is not None else []
    for value in made:
        drops = argument(value, None, "drop_last")
        if called(value) == "DataLoader" and isinstance(drops, ast.Constant) and drops.value is True:
            return Zero("dropped", "is 0 where the data set is smaller than one batch (`drop_last`)", value.lineno)
    return None
