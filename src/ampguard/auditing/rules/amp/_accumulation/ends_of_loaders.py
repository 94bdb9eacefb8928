"""What a loop over batches goes over, and whether its function thinks of the batches behind the last multiple of k."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation, names_k
from ampguard.auditing.rules.amp._steps import enclosing

_SHOWS = regex(r"tqdm|track|enumerate|progress|log_every|^zip$", re.IGNORECASE)
"""Calls that pass on what they are given, batch for batch."""

_LOADER = regex(r"load|data|batches|(^|_)dl\b")
_LAST = regex(r"len\(|last|final|total|num_|max_|end\b|epoch", re.IGNORECASE)
_SAMPLES = regex(r"batch_?size|(^|_)bsz?$", re.IGNORECASE)
_DEPTH = 3


def over_a_loader(module: Module, over: ast.expr, depth: int = _DEPTH) -> bool:
    """Whether a loop walks a collection whose length may be anything: not a `range` of steps, not an endless count.

    Progress bars, `enumerate`, names of them, and bars that only one process shows are seen through.
    """
    if isinstance(over, ast.IfExp):
        return over_a_loader(module, over.body, depth) and over_a_loader(module, over.orelse, depth)
    if isinstance(over, ast.Call):
        if called(over) == "range" and len(over.args) == 1:
            length = over.args[0]
            of = length.args[0] if isinstance(length, ast.Call) and called(length) == "len" and length.args else None
            return of is not None and over_a_loader(module, of, depth)
        return bool(_SHOWS.search(called(over)) and over.args) and over_a_loader(module, over.args[0], depth)
    if isinstance(over, ast.Name) and depth:
        values = [v for v in assigned(module, over) if _shows(v)]
        if values:
            return all(over_a_loader(module, v, depth - 1) for v in values)
    return bool(_LOADER.search(ast.unparse(over).lower()))


def _shows(value: ast.expr) -> bool:
    """Whether a value passes on what it is given, batch for batch, in all processes or in one of them."""
    if isinstance(value, ast.IfExp):
        return _shows(value.body) or _shows(value.orelse)
    return isinstance(value, ast.Call) and bool(_SHOWS.search(called(value)))


def plain_test(module: Module, found: Accumulation) -> ast.expr | None:
    """Return the part of the step's test that counts, where no other part asks for the last batch; else None."""
    if found.test is None:
        return None
    test = found.test.test
    values = module.names.values(test.id, test) if isinstance(test, ast.Name) else [test]
    plain = values[-1] if values else None
    if isinstance(plain, ast.BoolOp) and isinstance(plain.op, ast.And) and "%" in ast.unparse(plain):
        counting = [p for p in plain.values if "%" in ast.unparse(p)]
        others = [p for p in plain.values if "%" not in ast.unparse(p)]
        plain = counting[0] if len(counting) == 1 and not any(_LAST.search(ast.unparse(p)) for p in others) else None
    if isinstance(plain, ast.BoolOp) and isinstance(plain.op, ast.Or):
        counting = [p for p in plain.values if not _asks_for_one(p, found.count)]
        plain = counting[0] if len(counting) == 1 else None
    if isinstance(plain, ast.UnaryOp) and isinstance(plain.op, ast.Not):
        plain = plain.operand
    counts = isinstance(plain, ast.Compare) or (isinstance(plain, ast.BinOp) and isinstance(plain.op, ast.Mod))
    return plain if counts else None


def _asks_for_one(part: ast.expr, count: ast.expr) -> bool:
    """Whether a part of a test only asks whether k is 1, where every batch is a group."""
    if not isinstance(part, ast.Compare) or key(part.left) is None or key(part.left) != key(count):
        return False
    return isinstance(part.comparators[0], ast.Constant) and part.comparators[0].value == 1


def stepped_later(module: Module, found: Accumulation) -> bool:
    """Whether anything but a schedule, or a profiler, or the helper of the loop, steps behind it in its function."""
    around, end = enclosing(module, found.loop), found.loop.end_lineno or 0
    later = [c for c in module.calls_of(*{"step", called(found.step)}) if c.lineno > end]
    later = [c for c in later if enclosing(module, c) is around]
    return any(not is_scheduler(module, receiver(c)) and "prof" not in (key(receiver(c)) or "") for c in later)


def cut_to_groups(module: Module, found: Accumulation) -> bool:
    """Whether the function cuts its batches to whole groups: `len(loader) // k * k`, a quotient that the loop asks.

    The number of steps, as a schedule is told it, cuts nothing.
    """
    around = enclosing(module, found.backward)
    for node in _floor_divisions(module):
        if not names_k(node.right, found.count) or not module.tree.inside(node, around) or _of_samples(node.left):
            continue
        if _times_k(module, node, found.count):
            return True
        if module.tree.inside(node, found.loop):
            if _counts_steps(module, node):
                continue
            return True
        statement = module.tree.statement(node)
        place = key(statement.targets[0]) if isinstance(statement, ast.Assign) else None
        if place is None or any(_cuts(module, at, found) for at in _uses(around, place)):
            return True
    return False


def _of_samples(node: ast.expr) -> bool:
    """Whether what is divided is the number of samples in a batch, which says nothing of how many batches there are."""
    return bool(_SAMPLES.search((key(node) or "").rpartition(".")[2]))


def _counts_steps(module: Module, quotient: ast.BinOp) -> bool:
    """Whether a quotient in the loop only counts steps: `(i + 1) // k % every`, or what a call is told to log."""
    above = module.tree.parents[quotient]
    every = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mod) and above.left is quotient
    return every or (isinstance(above, ast.keyword) and above.arg in ("step", "global_step", "steps"))


def _floor_divisions(module: Module) -> list[ast.BinOp]:
    every = lambda: [n for n in module.tree.all(ast.BinOp) if isinstance(n.op, ast.FloorDiv)]  # noqa: E731
    return module.once("floor divisions", every)


def _uses(around: ast.AST, place: str) -> list[ast.expr]:
    nodes = (n for n in walk(around) if isinstance(n, ast.Name | ast.Attribute) and isinstance(n.ctx, ast.Load))
    return [n for n in nodes if key(n) == place]


def _cuts(module: Module, use: ast.expr, found: Accumulation) -> bool:
    """Whether a number of groups ends the loop: in what it walks, in a test that leaves it, as a number of batches."""
    if _times_k(module, use, found.count):
        return True
    if not module.tree.inside(use, found.loop):
        return False
    branch = module.tree.nearest(use, ast.If, ast.For)
    if isinstance(branch, ast.If):
        return module.tree.inside(use, branch.test) and isinstance(branch.body[-1], ast.Break | ast.Return)
    return isinstance(branch, ast.For) and module.tree.inside(use, branch.iter)


def _times_k(module: Module, node: ast.expr, count: ast.expr) -> bool:
    above = module.tree.parents[node]
    if not isinstance(above, ast.BinOp) or not isinstance(above.op, ast.Mult):
        return False
    other = above.right if above.left is node else above.left
    return names_k(other, count) and "//" not in ast.unparse(other)
