"""What a `GradScaler` remembers of its steps: a journal that is opened where the first loss lives.

torch's scaler learns its device from the first loss it is given, and leaves its tensors out when it is copied. So does
this: until the first loss, and in a copy, there are only counters.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ampguard.engine.config import GuardConfig
from ampguard.engine.journal import Journal
from ampguard.engine.readback import Tally
from ampguard.errors import ConfigError
from ampguard.records import StepRecord


class Logbook:
    """Rows, counters and events of a scaler; a Law, too, for its journal.

    Args:
        config: Limits of the scale, how often to read, what is ordinary, and whom to tell.
        backoff_factor: Returns the factor on the scale after an overflow, which may be set on the way.
    """

    def __init__(self, config: GuardConfig, backoff_factor: Callable[[], float]) -> None:
        self.config = config
        self._backoff_factor = backoff_factor
        self._tally = Tally()
        self._loss_known = True
        self._close()

    def _close(self) -> None:
        self._journal: Journal | None = None
        self._loss: Tensor | None = None
        self._lr: float | Tensor = math.nan

    def open(self, device: torch.device) -> None:
        """Make room for rows on the device, and go on counting."""
        self._journal = Journal(
            self.config,
            scale=self,
            # The LR that the last step was taken with: a scheduler may have moved on since.
            lr=lambda _: float(self._lr),
            precision="fp16-mixed",
            device=device,
        )
        self._journal.restart(self._tally)

    def restart(self, config: GuardConfig, tally: Tally) -> None:
        """Go on from a state, with its limits; what was not read is dropped."""
        self.config, self._tally = config, tally
        self._close()

    def add_loss(self, outputs: object) -> None:
        """Add what is scaled to the loss of the step; anything but a scalar makes losses unknown, for good. Sync: none.

        In an accumulation each scalar is its micro-batch's part, as the gradients see it.
        """
        if not isinstance(outputs, Tensor) or outputs.numel() != 1 or not outputs.is_floating_point():
            self._loss_known = False
            return
        part = outputs.detach().reshape(()).float()
        self._loss = part if self._loss is None else self._loss + part.to(self._loss.device, non_blocking=True)

    def note_lr(self, optimizer: Optimizer) -> None:
        """Keep the LR of an optimizer that was stepped; NaN where it has none. Sync: none."""
        self._lr = optimizer.param_groups[0].get("lr", math.nan)

    def write(self, scale: Tensor, found_inf: Tensor) -> None:
        """Write a step down. scale, found_inf: float32, shape (). Sync: none."""
        journal, unknown = self._opened(), torch.full_like(scale, math.nan)
        if self._loss is None or not self._loss_known:
            self._loss, self._loss_known = unknown, False
            journal.ignore_losses()
        loss = self._loss.to(scale.device, non_blocking=True)
        journal.ring.write((loss, unknown, unknown, scale, found_inf))

    def finish(self) -> None:
        """End the step, written down or not: read and judge, if it is time. Sync: one, every `check_every` steps."""
        self._loss = None
        journal = self._opened()
        if journal.attempted % self.config.check_every == 0:
            journal.drain()
            journal.judge()

    def read(self) -> StepRecord:
        """Read and judge, and return the last step. Sync: one, if a step was taken since the last read."""
        journal = self._opened()
        journal.drain()
        journal.judge()
        if journal.last is None:
            raise _no_step()
        return journal.last

    def count(self) -> Tally:
        """Return the steps so far; read, and do not judge. Sync: as `read`."""
        if self._journal is not None:
            self._journal.drain()
            self._tally = self._journal.tally
        return self._tally

    def _opened(self) -> Journal:
        if self._journal is None:
            raise _no_step()
        return self._journal

    def host(self, value: float) -> float | None:
        """Return the scale as it was read."""
        return value

    def after_skip(self, value: float) -> float:
        """Return the scale that follows a skipped step."""
        return max(value * self._backoff_factor(), self.config.min_scale)

    def at_floor(self, value: float) -> bool:
        """Return whether the scale can shrink no further."""
        return value <= self.config.min_scale

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tally": self.count(), "_journal": None, "_loss": None, "_lr": math.nan}


def _no_step() -> ConfigError:
    return ConfigError("no step was taken yet.", hint="Call scaler.step(optimizer) and scaler.update() first.")
