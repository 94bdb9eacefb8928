"""Loops that may have no pass: what they count is then still zero, and so is the length of what they go through."""

import ast
from collections.abc import Iterable, Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.counters import filled_with
from ampguard.auditing.reading.guards import spelled, spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.reaching import reaching
from ampguard.auditing.reading.tree import Loop, called, key, receiver, walk
from ampguard.auditing.reading.zeros import Zero, is_nothing

_THROUGH = frozenset(
    {"tqdm", "enumerate", "zip", "iter", "list", "reversed", "sorted", "islice", "track", "progress_bar"}
)
_VIEWS = frozenset({"items", "values", "keys"})
_DISPLAYS = (ast.List, ast.Tuple, ast.Dict, ast.Set)
_RANGES = frozenset({"range", "arange", "linspace", "logspace", "trange"})


def without_pass(module: Module, changes: Iterable[ast.AST], together: frozenset[str], start: str) -> Zero | None:
    """Return the zero of a counter that grows on every pass of a loop over what may be empty (a loader)."""
    for change in changes:
        for loop in module.tree.loops(change):
            over = _source(loop.iter) if isinstance(loop, ast.For | ast.AsyncFor) else None
            if over is None or not _may_be_empty(module, over):
                continue
            what = module.segment(over, 40)
            why = f"{start} and grows only in the loop at line {loop.lineno}, which has no pass where `{what}` is empty"
            return Zero("empty", why, loop.lineno, together | _spellings(over), (change,))
    return None


def since_assigned(module: Module, node: ast.BinOp) -> Zero | None:
    """`step - start` of a counter that begins as `step = start` and is counted in a loop, which may have no pass."""
    place, start = key(node.left), spelling(node.right)
    if place is None or key(node.right) is None:
        return None
    found = reaching(module, (place,), node)
    begun = next((d for d in found if d.kind == "assign" and d.value is not None and spelling(d.value) == start), None)
    counted = [d for d in found if d.kind == "add" and next(module.tree.loops(d.node), None) is not None]
    if begun is None or not counted:
        return None
    line = getattr(begun.node, "lineno", 0)
    why = f"is 0 where the loop at line {next(module.tree.loops(counted[0].node)).lineno} has no pass since line {line}"
    grows = tuple(d.node for d in counted)
    return Zero("since", why, node.lineno, filled_with(module, grows) - {place} | {spelling(node)}, grows)


def length_after_loop(module: Module, node: ast.AST, left: ast.expr, right: ast.expr) -> Zero | None:
    """Return the zero of `total / len(loader)` where the total was added up in a loop: of an empty loader."""
    for measured in _measured(module, right):
        if _may_be_empty(module, measured) and _is_summed(module, node, left, measured):
            what = module.segment(measured, 40)
            return Zero("empty", f"is 0 where `{what}` is empty", right.lineno, _spellings(measured) | spelled(right))
    return None


def _measured(module: Module, right: ast.expr, *, named: bool = False) -> Iterator[ast.expr]:
    """Walk what a divisor is the length of: `len(x)`, `n * len(x)`, `float(len(x))`, a name for one of them.

    A sum over it, `sum(len(y) for y in x)`, is as empty as that is.
    """
    if isinstance(right, ast.BinOp) and isinstance(right.op, ast.Mult):
        yield from _measured(module, right.left, named=named)
        yield from _measured(module, right.right, named=named)
    elif isinstance(right, ast.Call) and receiver(right) is None and len(right.args) == 1:
        if called(right) == "len":
            yield right.args[0]
        elif called(right) == "sum" and isinstance(right.args[0], ast.GeneratorExp | ast.ListComp):
            yield right.args[0].generators[0].iter
        elif called(right) in ("float", "int"):
            yield from _measured(module, right.args[0], named=named)
    elif isinstance(right, ast.Name) and not named:
        found = reaching(module, (right.id,), right)
        if len(found) == 1 and found[0].kind == "assign" and found[0].value is not None:
            yield from _measured(module, found[0].value, named=True)


def _is_summed(module: Module, node: ast.AST, left: ast.expr, measured: ast.expr, *, named: bool = False) -> bool:
    """Whether the left side was added up from nothing in a loop, or is the sum of what is measured."""
    for part in walk(left):
        if isinstance(part, ast.Call) and called(part) == "sum" and receiver(part) is None and part.args:
            summed = part.args[0]
            if isinstance(summed, ast.GeneratorExp | ast.ListComp):
                summed = summed.generators[0].iter
            if spelling(_source(summed) or summed) == spelling(measured):
                return True
        place = key(part) if isinstance(part, ast.Name | ast.Attribute | ast.Subscript) else None
        if place is not None and _is_added_up(module, place, node):
            return True
        if isinstance(part, ast.Name) and not named:
            found = reaching(module, (part.id,), node)
            value = found[0].value if len(found) == 1 and found[0].kind == "assign" else None
            if value is not None and _is_summed(module, found[0].node, value, measured, named=True):
                return True
    return False


def _is_added_up(module: Module, place: str, node: ast.AST) -> bool:
    found = reaching(module, (place,), node)
    starts = any(d.kind == "assign" and is_nothing(d.value) for d in found)
    return starts and any(
        d.kind in ("add", "change", "assign")
        and not (d.kind == "assign" and is_nothing(d.value))
        and next(module.tree.loops(d.node), None) is not None
        and not _same_loops(module, d.node, node)
        for d in found
    )


def _same_loops(module: Module, change: ast.AST, node: ast.AST) -> bool:
    """Whether the division stands in the loop that adds up: there the loop has a pass."""
    around: list[Loop] = list(module.tree.loops(node))
    return next(module.tree.loops(change)) in around


def _source(node: ast.expr) -> ast.expr | None:
    """Return what a loop goes through, without `tqdm`, `enumerate` and such; None where it is computed by a call."""
    while isinstance(node, ast.Call):
        owner = receiver(node)
        if called(node) in _VIEWS and owner is not None:
            node = owner
        elif called(node) in _THROUGH and node.args:
            node = node.args[0]
        else:
            return None
    return node if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) else None


def _may_be_empty(module: Module, node: ast.expr) -> bool:
    """Whether nothing says that it has items: no literal with items, no range, no upper-case constant."""
    if (
        not isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
        or (key(node) or "x").rpartition(".")[2].isupper()
    ):
        return False
    return not any(_has_items(v) for v in assigned(module, node))


def _has_items(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return called(value) in _RANGES
    if isinstance(value, ast.Constant):
        return bool(value.value)
    return isinstance(value, _DISPLAYS) and not is_nothing(value)


def _spellings(over: ast.expr) -> frozenset[str]:
    spelt = spelling(over)
    return frozenset(
        {spelt, f"len({spelt})", *((f"len({spelt[:-8]})", spelt[:-8]) if spelt.endswith(".dataset") else ())}
    )
