"""Scalers of torch that are called as if they were functions: `scaler(loss).backward()` leaves out `.scale`."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import receiver

_TORCH = ("torch.cuda.amp.GradScaler", "torch.amp.GradScaler", "torch.cuda.amp.grad_scaler.GradScaler")


def called_scalers(module: Module) -> Iterator[ast.Call]:
    """Walk the calls of what is nothing but a scaler of torch, where their result runs a backward pass."""
    for backward in module.calls_of("backward"):
        call = receiver(backward)
        if not isinstance(call, ast.Call) or not call.args or not is_scaler(module, call.func):
            continue
        values = [v for v in assigned(module, call.func) if not (isinstance(v, ast.Constant) and v.value is None)]
        made = [v.body if isinstance(v, ast.IfExp) else v for v in values]
        if made and all(isinstance(v, ast.Call) and module.names.stands_for(v.func, *_TORCH) for v in made):
            yield call
