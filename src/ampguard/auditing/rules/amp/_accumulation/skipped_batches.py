"""Micro-batches that are left out of a group whose step is told by the number of the batch.

`if isnan(loss): continue` before the backward pass, and `if (i + 1) % k == 0: step()` behind it: the group of a batch
that was left out holds fewer than k, and where that batch was the k-th, the step is left out with it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, walk
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation, names_k
from ampguard.auditing.rules.amp._steps import assigned_below

_RESUMES = regex(r"resum|start|skip_|epoch|done|step|last|max_|limit|rank|batch_size", re.IGNORECASE)


def left_out(module: Module, found: Accumulation) -> Iterator[ast.stmt]:
    """Walk the `continue`s that leave out a batch of an accumulation, but not its number."""
    numbers = _numbers(found)
    if found.test is None or not numbers or not _asks_number(found.test.test, numbers):
        return
    if not _divides(found):
        return
    for item in found.loop.body:
        if not isinstance(item, ast.If) or item is found.test or item.lineno > found.backward.lineno:
            continue
        asks = {n.id for n in walk(item.test) if isinstance(n, ast.Name)}
        of_the_batch = asks & assigned_below(module, found.loop) and not asks & numbers
        if not of_the_batch or not isinstance(item.body[-1], ast.Continue) or _RESUMES.search(ast.unparse(item.test)):
            continue
        if not any(_steps(c) for s in item.body for c in walk(s)):
            yield item.body[-1]


def _numbers(found: Accumulation) -> set[str]:
    """Return the name of the number that `enumerate` gives to each batch of a loop."""
    loop = found.loop
    if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Tuple):
        return set()
    if "enumerate(" not in ast.unparse(loop.iter):
        return set()
    first = loop.target.elts[0]
    return {first.id} if isinstance(first, ast.Name) else set()


def _asks_number(test: ast.expr, numbers: set[str]) -> bool:
    remainders = (n.left for n in walk(test) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod))
    return any(isinstance(n, ast.Name) and n.id in numbers for left in remainders for n in walk(left))


def _divides(found: Accumulation) -> bool:
    """Whether something in the loop is divided by k."""
    operations = (n for n in walk(found.loop) if isinstance(n, ast.BinOp | ast.AugAssign))
    divided = (n for n in operations if isinstance(n.op, ast.Div))
    return any(names_k(n.right if isinstance(n, ast.BinOp) else n.value, found.count) for n in divided)


def _steps(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and called(node) in ("step", "zero_grad", "backward")
