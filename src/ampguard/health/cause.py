"""The likely cause of a number that is not finite, told from what went in, what came out, and which operations ran.

    domain      an operation was given what it is not defined for: log of 0, a division by 0. Told from the values that
                autograd saved for it
    overflow    finite numbers became inf, or NaN in a half precision, whose range ends at 65504 (float16)
    unknown     NaN from finite float32 numbers that are not large, by an operation that saves nothing

It is a likely cause: nobody computes the module again here. `replay` does that, in float32 beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ampguard.health.graph import Part
from ampguard.health.readings import Reading, read

Kind = Literal["overflow", "domain", "data", "weights", "unknown"]
HALVES = (torch.float16, torch.bfloat16)

_NOT_POSITIVE: Callable[[Reading], bool] = lambda x: x.zeros or x.negatives  # noqa: E731
_NEGATIVE: Callable[[Reading], bool] = lambda x: x.negatives  # noqa: E731
_ZERO: Callable[[Reading], bool] = lambda x: x.zeros  # noqa: E731
_INFINITE: Callable[[Reading], bool] = lambda x: x.infinite  # noqa: E731


@dataclass(frozen=True)
class _Rule:
    """What an operation is not defined for, and where autograd keeps it."""

    operation: str
    """The node's name begins with it."""
    saved: str
    bad: Callable[[Reading], bool]
    words: str


_FORWARD = (
    _Rule("LogBackward", "_saved_self", _NOT_POSITIVE, "log of values that are 0 or negative"),
    _Rule("Log2Backward", "_saved_self", _NOT_POSITIVE, "log2 of values that are 0 or negative"),
    _Rule("Log10Backward", "_saved_self", _NOT_POSITIVE, "log10 of values that are 0 or negative"),
    _Rule("DivBackward", "_saved_other", _ZERO, "a division by 0"),
    _Rule("ReciprocalBackward", "_saved_result", _INFINITE, "a division by 0"),
    _Rule("RsqrtBackward", "_saved_result", _INFINITE, "rsqrt of 0"),
    _Rule("PowBackward", "_saved_self", _NOT_POSITIVE, "a power of values that are 0 or negative"),
)
"""In the forward: values for which the result is not finite."""

_ROOTS = ("SqrtBackward", "RsqrtBackward", "AcosBackward", "AsinBackward", "AcoshBackward", "AtanhBackward")
"""Operations that save no input, or whose domain is an interval: NaN from them is a domain error, where nothing
overflowed."""

_BACKWARD = (
    *_FORWARD[:3],
    _Rule("SqrtBackward", "_saved_result", _ZERO, "the derivative of sqrt at 0"),
    _Rule("RsqrtBackward", "_saved_result", _INFINITE, "the derivative of rsqrt at 0"),
    _Rule("PowBackward", "_saved_self", _NOT_POSITIVE, "the derivative of a power at 0 or below"),
    _Rule("DivBackward", "_saved_other", _ZERO, "a division by 0"),
    _Rule("ReciprocalBackward", "_saved_result", _INFINITE, "a division by 0"),
)
"""In the backward pass: values at which the derivative is not finite."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the place where it happened."""

    dtype: torch.dtype
    """The format in which it was computed."""
    before: Reading
    """Inputs in the forward, incoming gradients in the backward pass."""
    after: Reading
    parts: Sequence[Part[Any]]
    """The operations, as they ran."""
    loss_scale: float | None = None
    """What the gradients are multiplied by; backward only."""


def forward_cause(evidence: Evidence) -> tuple[Kind, str]:
    """Return the kind and a sentence for outputs that are not finite."""
    words = _broken_rule(evidence.parts, _FORWARD)
    if words:
        return "domain", f"{words} (inputs up to {_size(evidence.before)})"
    if evidence.dtype in HALVES or evidence.after.infinite or _would_exceed(evidence):
        return (
            "overflow",
            f"overflow in {_name(evidence.dtype)}: inputs up to {_size(evidence.before)}, {_end(evidence)}",
        )
    root = next((part for part in evidence.parts if part.node.name().startswith(_ROOTS)), None)
    if root is not None:
        operation = root.node.name().partition("Backward")[0].lower()
        return "domain", f"{operation} of values outside of its domain (inputs up to {_size(evidence.before)})"
    return "unknown", (
        f"NaN from inputs up to {_size(evidence.before)} in {_name(evidence.dtype)}, far below its limit: look for "
        "0/0, inf - inf or a softmax over a row that is masked whole"
    )


def backward_cause(evidence: Evidence) -> tuple[Kind, str]:
    """Return the kind and a sentence for gradients that are not finite."""
    came_in = f"gradients up to {_size(evidence.before)} came in{_scaled(evidence)}"
    words = _broken_rule(evidence.parts, _BACKWARD)
    if words:
        return "domain", f"{words} ({came_in})"
    operation = "".join(f" of {part.node.name()}" for part in evidence.parts[:1])
    if evidence.dtype in HALVES or _would_exceed(evidence):
        return (
            "overflow",
            f"overflow in {_name(evidence.dtype)} in the gradient{operation}: {came_in}, {_end(evidence)}",
        )
    return "unknown", f"the gradient{operation} is not finite in {_name(evidence.dtype)}: {came_in}"


def _broken_rule(parts: Sequence[Part[Any]], rules: Sequence[_Rule]) -> str:
    for part in parts:
        for rule in rules:
            if part.node.name().startswith(rule.operation) and rule.bad(_saved(part, rule.saved)):
                return rule.words
    return ""


def _saved(part: Part[Any], name: str) -> Reading:
    """Return what an operation saved; an empty reading where it is gone or must not be asked for."""
    if not part.readable:
        return Reading()
    try:
        value = getattr(part.node, name, None)
    except RuntimeError:
        # Freed already, or changed in place since.
        return Reading()
    return read([value]) if isinstance(value, Tensor) else Reading()


def _would_exceed(evidence: Evidence) -> bool:
    """Return whether the square of what came in leaves the format."""
    largest = evidence.before.max_abs or 0.0
    return largest > math.sqrt(torch.finfo(evidence.dtype).max)


def _scaled(evidence: Evidence) -> str:
    scale = evidence.loss_scale
    if scale is None or scale == 1.0 or evidence.before.max_abs is None:
        return ""
    return f" at a loss scale of {scale:g} ({evidence.before.max_abs / scale:.2g} without it)"


def _size(reading: Reading) -> str:
    return "unknown" if reading.max_abs is None else f"{reading.max_abs:.2g}"


def _end(evidence: Evidence) -> str:
    return f"the format ends at {float(torch.finfo(evidence.dtype).max):g}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
