"""Faults that are planted on purpose, for a bench that is tested must find them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ampguard.task import Task

Clock = Callable[[], float]
"""Returns seconds, monotone."""

Wait = Callable[[float], None]
"""Lets seconds pass."""


def delay(model: nn.Module, seconds: float, device: torch.device, wait: Wait) -> None:
    """Make each training forward of a model wait; a device that works on its own is waited for first."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        del args
        if module.training:
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            wait(seconds)

    model.register_forward_pre_hook(hook)


def looking_at(clock: Clock) -> Wait:
    """Return what waits by looking at a clock: sleeping is too coarse for a fraction of a millisecond."""

    def wait(seconds: float) -> None:
        end = clock() + seconds
        while clock() < end:
            pass

    return wait


def damaged(task: Task) -> Callable[[], nn.Module]:
    """Return what builds the Task's model with gradients that are all flushed to zero."""

    def flush(grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)

    def build() -> nn.Module:
        model = task.model()
        for parameter in model.parameters():
            if parameter.requires_grad:
                hooked: Any = parameter
                hooked.register_hook(flush)
        return model

    return build
