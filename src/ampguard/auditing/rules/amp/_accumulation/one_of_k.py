"""Losses that are divided by k, where only every k-th micro-batch runs a backward pass: nothing gathers the others.

`loss = loss / k`, then `if i % k == 0:` with the backward pass and the step in it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, walk
from ampguard.auditing.rules.amp._accumulation.loops import ACCUMULATES, loss_given
from ampguard.auditing.rules.amp._steps import backward_calls


def one_of_k(module: Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Walk (the backward pass, k) of loops that run it only every k-th time, with a loss that is divided by k."""
    for backward in backward_calls(module) if ACCUMULATES.search(module.about("accum", "acc_", "micro")) else ():
        loop, branch = next(module.tree.loops(backward), None), module.tree.nearest(backward, ast.If, ast.For)
        if loop is None or not isinstance(branch, ast.If) or branch.orelse or module.tree.parents[branch] is not loop:
            continue
        count = _remainder_by(branch.test)
        if count is None or _gathers_outside(module, loop, branch) or not _steps_in(branch):
            continue
        if _divided(module, loss_given(module, backward), count, loop):
            yield backward, count


def _remainder_by(test: ast.expr) -> ast.expr | None:
    """Return k of `i % k == 0`, where it is named as a number of micro-batches is."""
    left = test.left if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq) else None
    count = left.right if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) else None
    return count if count is not None and ACCUMULATES.search((key(count) or "").rpartition(".")[2]) else None


def _gathers_outside(module: Module, loop: Loop, branch: ast.If) -> bool:
    passes = (c for c in module.calls.get("backward", ()) if module.tree.inside(c, loop))
    return any(not module.tree.inside(c, branch) for c in passes)


def _steps_in(branch: ast.If) -> bool:
    return any(isinstance(n, ast.Call) and called(n) == "step" for n in walk(branch))


def _divided(module: Module, loss: ast.expr, count: ast.expr, loop: Loop) -> bool:
    """Whether a loss is divided by k where it is handed to the pass, or under its name in the loop."""
    divisions = [n for n in walk(loop) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)]
    for division in (n for n in divisions if key(n.right) == key(count)):
        given = module.tree.statement(division)
        targets = given.targets if isinstance(given, ast.Assign) else []
        if module.tree.inside(division, loss) or any(key(t) == key(loss) is not None for t in targets):
            return True
    changed = (n for n in walk(loop) if isinstance(n, ast.AugAssign) and isinstance(n.op, ast.Div))
    return any(key(n.target) == key(loss) and key(n.value) == key(count) for n in changed)
