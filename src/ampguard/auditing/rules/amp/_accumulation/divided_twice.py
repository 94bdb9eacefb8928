"""Losses that are divided by the number of micro-batches twice: by hand two times, or by hand and by accelerate.

`loss /= k` and, further down, `(loss / k).backward()`; `accelerator.backward(loss / k)` where the Accelerator was told
of the same number, by which its `backward` divides.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._steps import arms

_COUNTS = regex(r"accum|micro_?batches|num_micro|iter_size|sub_?divisions", re.IGNORECASE)
_NOT_COUNTS = regex(r"loss|rank|world", re.IGNORECASE)
_ACCELERATES = ("Accelerator(",)


def divided_twice(module: Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Walk (the second division, the number, what divided first)."""
    if not _COUNTS.search(module.about("accum", "icro", "iter_size", "division")):
        return
    for function in module.functions:
        yield from _in(module, function)


def _in(module: Module, function: Function) -> Iterator[tuple[ast.AST, str, str]]:
    first: dict[tuple[str, str], ast.AST] = {}
    found = [d for node in walk_scope(function) if (d := _division(node)) is not None]
    for node, loss, count in sorted(found, key=lambda d: (d[0].lineno, d[0].col_offset)):  # type: ignore[attr-defined]
        same = (loss, count)
        before = first.get(same)
        if before is None:
            if _kept(module, node, loss):
                first[same] = node
            if _accelerated(module, node, count):
                yield node, count, "accelerate's backward() does so too"
                return
        elif _follows(module, function, before, node, loss):
            yield node, count, f"line {getattr(before, 'lineno', 0)} did so already"
            return


def _division(node: ast.AST) -> tuple[ast.AST, str, str] | None:
    """Return a division of a loss by a number of micro-batches, with both spelled."""
    left: ast.expr
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
        left, right = node.target, node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left, right = node.left, node.right
    else:
        return None
    loss, count = key(left), key(right)
    if loss is None or count is None or "loss" not in loss.lower():
        return None
    last = count.rpartition(".")[2]
    return (node, loss, count) if _COUNTS.search(last) and not _NOT_COUNTS.search(last) else None


def _kept(module: Module, node: ast.AST, loss: str) -> bool:
    """Whether the loss itself is the quotient from here on."""
    if isinstance(node, ast.AugAssign):
        return True
    parent = module.tree.parents[node]
    return isinstance(parent, ast.Assign) and [key(t) for t in parent.targets] == [loss]


def _follows(module: Module, function: Function, before: ast.AST, node: ast.AST, loss: str) -> bool:
    """Whether the second comes behind the first in one pass, with the same loss, on its way to the backward pass."""
    if arms(module, before, node) or not (_kept(module, node, loss) or _is_given_to_backward(module, node)):
        return False
    one, other = module.tree.statement(before), module.tree.statement(node)
    asked = [at for at in module.tree.above(one) if isinstance(at, ast.If)]
    if any(not module.tree.inside(other, at) for at in asked):
        return False  # the first is one way of several
    between = range(one.lineno + 1, other.lineno)
    anew = (n for n in walk_scope(function) if isinstance(n, ast.Assign | ast.AnnAssign) and n.lineno in between)
    return not any(key(t) == loss for n in anew for target in _targets(n) for t in walk(target))


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _is_given_to_backward(module: Module, node: ast.AST) -> bool:
    for at in module.tree.above(node):
        if isinstance(at, ast.Call) and called(at) in ("backward", "manual_backward"):
            return True
        if isinstance(at, ast.stmt):
            return False
    return False


def _accelerated(module: Module, node: ast.AST, count: str) -> bool:
    """Whether the quotient goes to the backward pass of an Accelerator that was told of the same number."""
    if not module.mentions(_ACCELERATES):
        return False
    backward = next((c for c in module.tree.above(node) if isinstance(c, ast.Call) and called(c) == "backward"), None)
    if backward is None:
        function = module.tree.function(node)
        later = (c for c in module.calls_of("backward") if c.args and module.tree.function(c) is function)
        kept = module.tree.statement(node)
        behind = (c for c in later if c.lineno > kept.lineno and _same_loss(kept, c.args[0]))
        backward = next(iter(behind), None)
    if backward is None or not backward.args or "accelerator" not in (key(receiver(backward)) or "").lower():
        return False
    told = (k.value for c in module.calls_of("Accelerator") for k in c.keywords if k.arg == _TOLD)
    last = count.rpartition(".")[2]
    return any(last == (key(value) or "").rpartition(".")[2] for value in told)


_TOLD = "gradient_accumulation_steps"


def _same_loss(kept: ast.stmt, given: ast.expr) -> bool:
    targets = kept.targets if isinstance(kept, ast.Assign) else [kept.target] if isinstance(kept, ast.AugAssign) else []
    return any(key(target) is not None and key(target) == key(given) for target in targets)
