"""One attempted optimizer step of a Task, in micro-batches: what a run does each step and a bench in each block."""

from torch import Tensor, nn

from ampguard.engine import Guard
from ampguard.task import Batch, LossSum, Task
from ampguard.training.data import leading, split, to_device


def attempt(task: Task, model: nn.Module, guard: Guard, batch: Batch, micro_batch_size: int | None) -> Tensor:
    """Take a step on a batch; exact over micro-batches, also where the last one is short.

    Args:
        task: Its loss is used.
        model: In training mode; may be compiled.
        guard: Of this model.
        batch: On any device.
        micro_batch_size: Samples in a forward; None: the whole batch.

    Returns:
        applied: bool, shape (), on the device, as `Guard.step` returns it.

    Sync: that of `Guard.step`.
    """
    parts = split(batch, micro_batch_size) if micro_batch_size else [batch]
    for part in parts:
        part = to_device(part, guard.device)
        with guard.autocast():
            loss = task.loss(model, part)
        weight = None if len(parts) == 1 or isinstance(loss, LossSum) else leading(part)
        guard.backward(loss, weight=weight)
    return guard.step()
