"""What bench-overhead trains: a network so small that the step is all overhead, and one of the size people train.

A subject gives fresh equal models and the same batches to every loop.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ampguard.tasks import text
from loops import LOOPS

SEED = 0
DECAY_STEPS = 100_000
"""Steps to an LR of nearly nothing, more than any run here: the LR moves at each step and never stands still."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, its loss and its batches."""

    name: str
    what: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Tensor]
    """The mean over the batch, a scalar."""
    batches: list[Any]
    """Used in turn, again and again."""
    lr: float
    threads: int
    loops: tuple[str, ...]
    """The rows that are measured unless others are asked for."""
    blocks: int
    steps_per_block: int
    warmup_steps: int
    agreement_steps: int
    """Steps after which the weights of the loops are compared: chaos has not yet the upper hand."""

    def model(self) -> nn.Module:
        """Return a model with the same first weights at each call."""
        torch.manual_seed(SEED)
        return self.build()

    def optimizer(self, model: nn.Module) -> AdamW:
        """Return the optimizer of every loop."""
        return AdamW(model.parameters(), lr=self.lr, fused=True)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Return the LR schedule of every loop."""
        return LambdaLR(optimizer, self.lr_factor)

    def lr_factor(self, step: int) -> float:
        """Return what the LR is multiplied by after `step` applied steps."""
        return max(0.01, 1 - step / DECAY_STEPS)


def mlp() -> Subject:
    """Return the MLP 32-64-10 on drawn data, batch 16, one thread."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.randn((512, 16, 32), generator=generator)
    targets = torch.randint(0, 10, (512, 16), generator=generator)
    return Subject(
        name="mlp",
        what="MLP 32-64-10, batch 16",
        build=lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches=list(zip(inputs, targets, strict=True)),
        lr=1e-3,
        threads=1,
        loops=LOOPS,
        blocks=200,
        steps_per_block=100,
        warmup_steps=200,
        agreement_steps=30,
    )


def text_small() -> Subject:
    """Return the Task `text` in size small (6 x 384, context 256), batch 8, all cores."""
    task = text.build(size="small")
    windows: Any = task.train_data
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(SEED))[:128]
    return Subject(
        name="text-small",
        what="byte-level GPT 6 x 384, context 256, batch 8, on the standard library's sources",
        build=task.model,
        loss=lambda model, batch: _mean(task.loss(model, batch)),
        batches=list(torch.stack([windows[int(index)] for index in order]).split(8)),
        lr=1e-3,
        threads=len(os.sched_getaffinity(0)),
        # A peer's own part of a step of hundreds of milliseconds is lost in the noise.
        loops=("plain", "tuned", "ours"),
        blocks=50,
        steps_per_block=1,
        warmup_steps=3,
        agreement_steps=5,
    )


def _mean(loss: Any) -> Tensor:
    return loss.total / loss.count  # type: ignore[no-any-return]


SUBJECTS: dict[str, Callable[[], Subject]] = {"mlp": mlp, "text": text_small}
