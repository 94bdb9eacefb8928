"""Scalers of the project's own that are told at each batch whether to step: `loss_scaler(loss, ..., update_grad=...)`.

Such a call runs the backward pass, and steps where it is told to; the test of every k-th time is its argument.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key
from ampguard.auditing.rules.amp._ends_of_loaders import over_a_loader

_TOLD = ("update_grad", "need_update", "update_params", "step_optimizer", "do_step")


def told_every_kth(module: Module) -> Iterator[tuple[ast.Call, ast.expr, ast.For]]:
    """Walk (the call, k, the loop) where the last batches of a loader are told nothing of their own."""
    if not module.mentions(_TOLD):
        return
    for call in (c for name, calls in module.calls.items() if "caler" in name for c in calls):
        flag = next((k.value for k in call.keywords if k.arg in _TOLD), None)
        loop = next(module.tree.loops(call), None)
        if flag is None or not isinstance(loop, ast.For) or not over_a_loader(module, loop.iter):
            continue
        if isinstance(flag, ast.Name):
            values = assigned(module, flag)
            flag = values[0] if len(values) == 1 else flag
        left = flag.left if isinstance(flag, ast.Compare) and isinstance(flag.ops[0], ast.Eq) else None
        if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and key(left.right) is not None:
            yield call, left.right, loop
