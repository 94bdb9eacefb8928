"""A Task of a few hundred weights for tests: BatchNorm, dropout, and faults on demand."""

import os
import signal

import torch
from torch import nn

from ampguard import LossSum, Task

SAMPLES = 96


class Faulty:
    """The loss, with a fault at the n-th training forward (from 1)."""

    def __init__(self, interrupt_at: int, raise_at: int, poison_at: int, summed: bool) -> None:
        self.calls = 0
        self.interrupt_at, self.raise_at, self.poison_at, self.summed = interrupt_at, raise_at, poison_at, summed

    def __call__(self, model, batch):
        images, labels = batch
        if model.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls == self.interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            if self.calls == self.raise_at:
                raise ValueError("the user's own mistake")
            if self.calls == self.poison_at:
                images = images * float("inf")
        logits = model(images)
        if self.summed:
            total = nn.functional.cross_entropy(logits, labels, reduction="sum")
            return LossSum(total, len(labels))
        return nn.functional.cross_entropy(logits, labels)


def build(
    width: int = 8,
    interrupt_at: int = 0,
    raise_at: int = 0,
    poison_at: int = 0,
    summed: bool = False,
    norm: bool = True,
    dropout: float = 0.1,
) -> Task:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(SAMPLES, 6, generator=generator)
    data = torch.utils.data.TensorDataset(images, (images[:, 0] > 0).long())

    def model() -> nn.Module:
        norms = [nn.BatchNorm1d(width)] if norm else []
        return nn.Sequential(nn.Linear(6, width), *norms, nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2))

    return Task(
        name="toy",
        model=model,
        loss=Faulty(interrupt_at, raise_at, poison_at, summed),
        train_data=data,
        val_data=data,
        defaults={"steps": 20, "lr": 1e-2, "batch_size": 20},
    )
