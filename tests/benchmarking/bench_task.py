"""A Task of some hundred weights for tests of bench: faults in one precision, at one step, or for good."""

import os
import signal

import torch
from torch import nn

from ampguard import Task

SAMPLES = 96


def in_half() -> bool:
    """Whether autocast computes in half precision here."""
    return torch.is_autocast_enabled("cpu")


class Loss:
    """Cross entropy with a fault: in half precision, in every precision, or Ctrl-C at the n-th training forward."""

    def __init__(self, half: str, every: str, interrupt_at: int) -> None:
        self.half, self.every, self.interrupt_at, self.calls = half, every, interrupt_at, 0

    def __call__(self, model, batch):
        images, labels = batch
        if model.training:
            self.calls += 1
            if self.calls == self.interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
        self._fail(self.half if in_half() else "")
        self._fail(self.every)
        return nn.functional.cross_entropy(model(images).float(), labels)

    @staticmethod
    def _fail(how: str) -> None:
        if how == "oom":
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
        if how == "raise":
            raise ValueError("the user's own mistake")


class Overflow(nn.Module):
    """Leaves the range of the numbers in half precision only."""

    def forward(self, x):
        return x * float("inf") if in_half() else x


def build(
    half: str = "",
    every: str = "",
    interrupt_at: int = 0,
    overflow: bool = False,
    validation: bool = True,
    perfect: bool = False,
) -> Task:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(SAMPLES, 6, generator=generator)
    data = torch.utils.data.TensorDataset(images, (images[:, 0] > 0).long())

    def model() -> nn.Module:
        middle = Overflow() if overflow else nn.Identity()
        return nn.Sequential(nn.Linear(6, 8), middle, nn.ReLU(), nn.Linear(8, 2))

    def nothing_lost(model, batch):
        from ampguard.task import Sum

        return {"loss": Sum(0.0, len(batch[1]))}

    return Task(
        name="tiny",
        model=model,
        loss=Loss(half, every, interrupt_at),
        train_data=data,
        val_data=data if validation else None,
        evaluate=nothing_lost if perfect else None,
        defaults={"steps": 20, "lr": 1e-2, "batch_size": 20},
    )
