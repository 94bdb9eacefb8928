"""Backward passes by an object that was made without mixed precision, and so scales no loss.

`trainer = MixedPrecisionTrainer(model, use_fp16=False)`, `Accelerator(mixed_precision="no")`: what it is handed goes
backward as it is, also where the loss comes out of a float16 autocast that somebody has opened by hand.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, receiver

_SWITCH = regex(r"(use_|enable_|with_)?(fp16|float16|amp|half|mixed_precision|precision)(_enabled|_training)?")
_OFF = (False, "no", "fp32", "32", 32, "32-true", "float32")
_SCALES = regex(r"[sS]caler\b|loss_scal|LossScal|scale_loss|scaled_loss|apex|deepspeed")
_REDUCES = ("mean", "sum", "to", "float", "div", "squeeze")


def backward_in_full(module: Module) -> Iterator[tuple[ast.Call, ast.expr, ast.Call]]:
    """Walk (the backward call, the loss, what makes the object with its switch off)."""
    handed = [c for c in module.calls_of("backward") if len(c.args) == 1 and receiver(c) is not None]
    for call in handed if handed and not _SCALES.search(module.text) else ():
        owner = receiver(call)
        values = assigned(module, owner) if owner is not None else []
        made = values[0] if len(values) == 1 else None
        if isinstance(made, ast.Call) and any(_is_off(keyword) for keyword in made.keywords):
            yield call, _unreduced(call.args[0]), made


def _is_off(keyword: ast.keyword) -> bool:
    """Whether an argument is a switch of mixed precision, and off where it is written."""
    off = isinstance(keyword.value, ast.Constant) and any(keyword.value.value == value for value in _OFF)
    return off and keyword.arg is not None and _SWITCH.fullmatch(keyword.arg) is not None


def _unreduced(loss: ast.expr) -> ast.expr:
    """Return the loss before `.mean()` and `/ k`."""
    while True:
        if isinstance(loss, ast.BinOp) and isinstance(loss.op, ast.Div | ast.Mult):
            loss = loss.left
        elif isinstance(loss, ast.Call) and called(loss) in _REDUCES and isinstance(loss.func, ast.Attribute):
            loss = loss.func.value
        else:
            return loss
