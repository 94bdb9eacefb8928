"""Scalers of the project's own that are told at each batch whether to step: `loss_scaler(loss, ..., update_grad=...)`.

Such a call runs the backward pass, and steps where it is told to; the test of every k-th time is its argument.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, walk
from ampguard.auditing.rules.amp._accumulation.ends_of_loaders import over_a_loader
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation

_TOLD = ("update_grad", "need_update", "update_params", "step_optimizer", "do_step")


def told_every_kth(module: Module) -> Iterator[tuple[ast.Call, ast.expr, ast.For]]:
    """Walk (the call, k, the loop) where the last batches of a loader are told nothing of their own."""
    for call, flag, loop in _told(module):
        if not over_a_loader(module, loop.iter):
            continue
        left = flag.left if isinstance(flag, ast.Compare) and isinstance(flag.ops[0], ast.Eq) else None
        if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and key(left.right) is not None:
            yield call, left.right, loop


def told_accumulations(module: Module) -> Iterator[Accumulation]:
    """Walk the accumulations of such calls: each runs the backward pass of the loss that it is given first."""
    for call, flag, loop in _told(module):
        left = (n.left for n in walk(flag) if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.Eq))
        k = next((at.right for at in left if isinstance(at, ast.BinOp) and isinstance(at.op, ast.Mod)), None)
        if k is not None and key(k) is not None and call.args:
            yield Accumulation(loop, call, k, call, None)


def _told(module: Module) -> Iterator[tuple[ast.Call, ast.expr, ast.For]]:
    """Walk (the call, what it is told, the loop)."""
    if not module.mentions(_TOLD):
        return
    for call in (c for name, calls in module.calls.items() if "caler" in name for c in calls):
        flag = next((k.value for k in call.keywords if k.arg in _TOLD), None)
        loop = next(module.tree.loops(call), None)
        if flag is None or not isinstance(loop, ast.For):
            continue
        values = assigned(module, flag) if isinstance(flag, ast.Name) else []
        yield call, values[0] if len(values) == 1 else flag, loop
