"""Validation: metrics as exact weighted means over all batches, read from the device once."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from math import fsum

import torch
from torch import Tensor, nn

from ampguard.errors import TaskError
from ampguard.task import Batch, LossSum, Sum, Task
from ampguard.training.data import leading, to_device


def evaluate(
    task: Task,
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    autocast: AbstractContextManager[None],
) -> dict[str, float]:
    """Return {"val/<metric>": value} over all batches, with the model in eval mode and as it was afterwards.

    A metric is sum(total) / sum(count); one whose count is 0, or that is not finite, is left out by the tracker.

    Sync: one, at the end.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    sums: dict[str, list[Sum]] = {}
    try:
        with torch.no_grad():
            for batch in batches:
                with autocast:
                    measured = _measure(task, model, to_device(batch, device))
                for name, part in measured.items():
                    sums.setdefault(name, []).append(part)
    finally:
        for module, training in modes.items():
            module.training = training
    return {f"val/{name}": mean for name, parts in sums.items() if (mean := _mean(parts)) is not None}


def _measure(task: Task, model: nn.Module, batch: Batch) -> dict[str, Sum]:
    if task.evaluate is not None:
        metrics = dict(task.evaluate(model, batch))
        for name, value in metrics.items():
            if not isinstance(value, Sum):
                raise TaskError(
                    f"Task {task.name!r}: evaluate returned a {type(value).__name__} for {name!r}, not a Sum.",
                    hint="Return Sum(total, count) of the batch: batches need not be of one size.",
                )
        return metrics
    loss = task.loss(model, batch)
    if isinstance(loss, LossSum):
        return {"loss": Sum(loss.total, loss.count)}
    samples = leading(batch)
    return {"loss": Sum(loss * samples, samples)}


def _mean(parts: list[Sum]) -> float | None:
    total, count = _add([part.total for part in parts]), _add([part.count for part in parts])
    return total / count if count else None


def _add(values: "list[Tensor | float]") -> float:
    tensors = [value.detach().float().reshape(()) for value in values if isinstance(value, Tensor)]
    numbers = [float(value) for value in values if not isinstance(value, Tensor)]
    return fsum(numbers + (torch.stack(tensors).tolist() if tensors else []))
