"""A Task of twelve weights for searches: what goes wrong is decided by the learning rate of the trial."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from ampguard import Task

SAMPLES = 48
NEVER = 1e9


class Faulty:
    """The loss; above an LR it runs out of memory, goes non-finite, or kills its process, at the second forward."""

    def __init__(self, *, oom_above, inf_above, kill_above, kill_once, pause_s):
        self.oom_above, self.inf_above, self.kill_above = oom_above, inf_above, kill_above
        self.kill_once, self.pause_s = kill_once, pause_s
        self.lr, self.forwards = 0.0, 0

    def __call__(self, model, batch):
        if model.training:
            self.forwards += 1
            time.sleep(self.pause_s)
            if self.forwards == 2:
                self._fail()
        inputs, targets = batch
        loss = (model(inputs).squeeze(-1) - targets).square().mean()
        return loss * float("inf") if model.training and self.lr > self.inf_above else loss

    def _fail(self):
        if self.lr > self.oom_above:
            raise torch.OutOfMemoryError("planted")
        if self.lr > self.kill_above or (self.kill_once and _first(Path(self.kill_once))):
            os.kill(os.getpid(), signal.SIGKILL)


def _first(marker):
    """Return whether nobody has come to this file yet, and leave it there."""
    try:
        marker.open("x").close()
    except FileExistsError:
        return False
    return True


def build(
    oom_above: float = NEVER,
    inf_above: float = NEVER,
    kill_above: float = NEVER,
    kill_once: str = "",
    pause_s: float = 0.0,
    width: int = 4,
    log: str = "",
) -> Task:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 4, generator=generator)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(-1))
    loss = Faulty(oom_above=oom_above, inf_above=inf_above, kill_above=kill_above, kill_once=kill_once, pause_s=pause_s)

    def optimizer(model, lr):
        loss.lr = lr
        if log:
            with Path(log).open("a") as file:
                file.write(f"{lr!r}\n")
        return torch.optim.SGD(model.parameters(), lr=lr)

    return Task(
        name="tiny",
        model=lambda: nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1)),
        loss=loss,
        train_data=data,
        val_data=data,
        optimizer=optimizer,
        defaults={"steps": 4, "lr": 0.02, "batch_size": 8, "precision": "fp32", "validate_every": 2},
    )
