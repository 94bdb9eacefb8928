"""Exact accumulation: the loss of a step is one weighted mean, however its batch was cut.

A scalar loss is added as torch adds it: the caller divides. A `LossSum(total, count)` needs no division: each
micro-batch backpropagates total / c_ref, which is the size of a mean, and the step divides once by
sum(count) / c_ref. c_ref is the first count ever seen: constant afterwards and part of the checkpoint. While
every step counts the same, the divisor is exactly 1 and one micro-batch is bitwise torch's own mean.
A mean of means is wrong as soon as the counts differ.
"""

from typing import Any

import torch
from torch import Tensor

from ampguard.errors import LossError
from ampguard.task import LossSum


class Accumulator:
    """The micro-batches of the step that is under way.

    Args:
        device: Where the parameters live.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reference: int | float | Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the step that is under way."""
        self._loss: Tensor | None = None
        self._count: int | float | Tensor | None = None
        self.micro_batches = 0

    def add(self, loss: Tensor | LossSum, weight: int | float | Tensor | None) -> Tensor:
        """Take a micro-batch's loss and return the scalar to backpropagate, before the loss scale.

        Raises:
            LossError: Not a connected floating-point scalar, or a sum mixed with a plain loss in one step.

        Sync: none.
        """
        if isinstance(loss, LossSum):
            if weight is not None:
                raise LossError("backward got a LossSum and a weight.", hint="A LossSum carries its own count.")
            return self._add_sum(_scalar(loss.total), _counted(loss.count))
        if weight is not None:
            return self._add_sum(_scalar(loss) * weight, _counted(weight))
        return self._add_plain(_scalar(loss))

    def ratio(self) -> Tensor | None:
        """Return D = sum(count) / c_ref, float32, shape (); None where it is 1. Sync: none."""
        if self._count is None or self._reference is None:
            return None
        ratio = self._count / self._reference
        if isinstance(ratio, Tensor):
            return ratio.float()
        return None if ratio == 1.0 else torch.full((), ratio, dtype=torch.float32, device=self._device)

    def loss(self, ratio: Tensor | None) -> Tensor:
        """Return the loss of the whole step, float32, shape (), detached. Sync: none."""
        if self._loss is None:
            raise LossError("step was called without a backward.", hint="Call guard.backward(loss) first.")
        loss = self._loss if ratio is None else self._loss / ratio
        return loss if loss.dtype is torch.float32 else loss.float()

    def _add_plain(self, loss: Tensor) -> Tensor:
        if self._count is not None:
            raise _mixed()
        self._keep(loss)
        return loss

    def _add_sum(self, total: Tensor, count: int | float | Tensor) -> Tensor:
        if self.micro_batches and self._count is None:
            raise _mixed()
        if self._reference is None:
            # A first micro-batch without elements must not make 0 what everything is divided by from then on.
            self._reference = torch.where(count > 0, count, 1) if isinstance(count, Tensor) else count
        elif isinstance(count, Tensor) and not isinstance(self._reference, Tensor):
            # A checkpoint holds a number; dividing by it rounds otherwise than dividing by the tensor that it was.
            self._reference = torch.full_like(count, self._reference)
        self._count = count if self._count is None else self._count + count
        part = total / self._reference
        self._keep(part)
        return part

    def _keep(self, part: Tensor) -> None:
        part = part.detach()
        self._loss = part if self._loss is None else self._loss + part
        self.micro_batches += 1

    def state_dict(self) -> dict[str, Any]:
        """Return {"c_ref": float | None}. Sync: one if the counts are tensors."""
        return {"c_ref": None if self._reference is None else float(self._reference)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that `state_dict` returned."""
        self._reference = state["c_ref"]


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise LossError(f"the loss is a {type(loss).__name__}, not a tensor.", hint="Return a scalar tensor.")
    if loss.dim() and loss.numel() != 1:
        raise LossError(
            f"the loss has shape {tuple(loss.shape)}; it must be a scalar.",
            hint="Take its mean, or return LossSum(loss.sum(), loss.numel()).",
        )
    if not loss.requires_grad:
        raise LossError(_why_not(loss))
    return loss.reshape(()) if loss.dim() else loss


def _why_not(loss: Tensor) -> str:
    if not loss.is_floating_point():
        return f"the loss is {loss.dtype}, which has no gradient; it must be floating point."
    return (
        "the loss is not connected to the model: it does not require a gradient. "
        "Look for torch.no_grad, .detach(), .item() or .data on its way."
    )


def _counted(count: Any) -> int | float | Tensor:
    if isinstance(count, Tensor):
        return count.detach().double().reshape(()) if count.device.type == "cpu" else count.detach().float().reshape(())
    if not count > 0:
        raise LossError(f"the count of a loss is {count!r}; it must be > 0.", hint="Leave empty micro-batches out.")
    return count  # type: ignore[no-any-return]


def _mixed() -> LossError:
    return LossError(
        "one step mixes a plain loss with a LossSum or a weight.",
        hint="Use the same kind of loss for every micro-batch of a step.",
    )
