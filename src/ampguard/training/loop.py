"""The training loop: data, steps, rows, validations, checkpoints. It uses the Guard's public surface only.

Everything that happens between two steps happens at a step boundary, keyed by the ordinal of the attempted step,
so that a run that was stopped and resumed writes what the uninterrupted run writes. Left out: workers' death,
out-of-memory splitting, ranks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer

from ampguard.checkpointing import CheckpointStore, collect
from ampguard.engine import Guard
from ampguard.errors import TaskError
from ampguard.records import Event, RunStatus
from ampguard.task import Batch, LossSum, Task
from ampguard.tracking.jsonl import JsonlTracker
from ampguard.training.config import VALIDATIONS, TrainConfig
from ampguard.training.data import TrainData, leading, split, to_device, val_batches
from ampguard.training.evaluate import evaluate
from ampguard.training.meter import Meter
from ampguard.training.preempt import StopFlag
from ampguard.training.progress import Progress


@dataclass
class Cursor:
    """Where the run stands: what a checkpoint keeps beside weights and optimizer."""

    step: int = 0
    """Attempted steps."""
    epoch: int = 0
    position: int = 0
    """Batches of the epoch that were taken."""
    best: float | None = None
    """Lowest val/loss so far."""
    wall_s: float = 0.0
    """Seconds spent by earlier parts of the run."""
    final: dict[str, float] | None = None
    """Last value of each metric."""


class Loop:
    """One run's loop over ready-made parts."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        guard: Guard,
        data: TrainData,
        store: CheckpointStore,
        tracker: JsonlTracker,
        progress: Progress,
        steps: int,
    ) -> None:
        self.task, self.config, self.steps = task, config, steps
        self.model, self.optimizer, self.guard, self.data = model, optimizer, guard, data
        self.store, self.tracker, self.progress = store, tracker, progress
        self.cursor = Cursor(final={})
        self.meter = Meter(guard.device)
        self._began = self._saved_at = perf_counter()
        self._saved_step: int | None = None
        self._best_is_new = False
        self._best_before: float | None = None
        self._validate_every = config.validate_every or max(1, -(-steps // VALIDATIONS))
        self._checkpoint_steps, self._checkpoint_s = config.checkpoint_interval()

    @property
    def wall_s(self) -> float:
        """Seconds of the whole run, earlier parts included."""
        return self.cursor.wall_s + perf_counter() - self._began

    def run(self, stop: StopFlag) -> RunStatus:
        """Train to the last step, or to the boundary at which `stop` asks; return how it ended."""
        self.model.train()
        batches = self._batches()
        while self.cursor.step < self.steps and stop.status is None:
            asked = perf_counter()
            batch = next(batches)
            self.meter.waited(perf_counter() - asked)
            self._step(batch)
            self._boundary()
        status = "finished" if self.cursor.step >= self.steps else stop.status
        if status != "finished":
            self.event(Event(kind=cast(Any, status), step=self.cursor.step, message="stopped at a step boundary"))
        self.checkpoint()
        return cast(RunStatus, status)

    def continue_from(self, cursor: Cursor) -> None:
        """Stand where a checkpoint was taken."""
        self.cursor, self._saved_step = cursor, cursor.step

    def event(self, event: Event) -> None:
        """Write an event down and show it."""
        self.tracker.event(event.as_dict())
        self.progress.event(event)

    def _batches(self) -> Iterator[Batch]:
        while True:
            start = self.cursor.position
            for batch in self.data.batches(self.cursor.epoch, start):
                self.cursor.position += 1
                yield batch
            if self.cursor.position == start == 0:
                raise TaskError(f"Task {self.task.name!r}: train_data yields no batch.")
            self.cursor.epoch, self.cursor.position = self.cursor.epoch + 1, 0

    def _step(self, batch: Batch) -> None:
        parts = split(batch, self.config.micro_batch_size) if self.config.micro_batch_size else [batch]
        for part in parts:
            part = to_device(part, self.guard.device)
            with self.guard.autocast():
                loss = self.task.loss(self.model, part)
            weight = None if len(parts) == 1 or isinstance(loss, LossSum) else leading(part)
            self.guard.backward(loss, weight=weight)
        self.guard.step()
        self.cursor.step += 1
        self.meter.stepped(self.task.count(batch) if self.task.count else {"samples": leading(batch)})

    def _boundary(self) -> None:
        step, last = self.cursor.step, self.cursor.step == self.steps
        row: dict[str, float | int] = {}
        if last or step % self.config.log_every == 0:
            row = self._train_row()
        if last or step % self._validate_every == 0:
            row |= self._validate()
        self.progress.step(step)
        if row:
            self._log({"step": step, **row})
        if not last and self._checkpoint_due():
            self.checkpoint()

    def _train_row(self) -> dict[str, float | int]:
        row = self.guard.read().metrics(enabled=self.guard.decision.policy.autocasts)
        return row | self.meter.row()

    def _log(self, row: Mapping[str, float | int]) -> None:
        for key in self.tracker.log(row):
            self.event(Event(kind="nonfinite", step=self.cursor.step, message=f"{key} was not finite"))
        self.cursor.final = {**(self.cursor.final or {}), **{k: v for k, v in row.items() if k != "step"}}
        self.progress.row(row)

    def _validate(self) -> dict[str, float]:
        if self.task.val_data is None:
            return {}
        began = perf_counter()
        batches = val_batches(self.task, self.config.val_batch_size or self.config.batch_size)
        context = self.guard.autocast()
        if self.config.ema is None:
            metrics = evaluate(self.task, self.model, batches, device=self.guard.device, autocast=context)
        else:
            with self.guard.averaged():
                metrics = evaluate(self.task, self.model, batches, device=self.guard.device, autocast=context)
        self.meter.paused(perf_counter() - began)
        self._keep_best(metrics.get("val/loss"))
        return metrics

    def _keep_best(self, loss: float | None) -> None:
        if loss is not None and loss == loss and (self.cursor.best is None or loss < self.cursor.best):
            self._best_before, self.cursor.best = self.cursor.best, loss
            self._best_is_new = True

    def _checkpoint_due(self) -> bool:
        if self._best_is_new:
            return True
        if self._checkpoint_steps is not None:
            return self.cursor.step % self._checkpoint_steps == 0
        return perf_counter() - self._saved_at >= (self._checkpoint_s or 0.0)

    def checkpoint(self) -> None:
        """Save the run as it stands; a disk that fails costs an event, and the next checkpoint tries again."""
        if self._saved_step == self.cursor.step:
            return
        began = perf_counter()
        progress = {**vars(self.cursor), "wall_s": self.wall_s, "data": self.data.state_dict()}
        state = collect(model=self.model, optimizers=[self.optimizer], guard=self.guard, progress=progress)
        try:
            self.tracker.sync()
            path = self.store.save(self.cursor.step, state, best=self._best_is_new)
        except OSError as error:
            self.event(Event(kind="checkpoint_failed", step=self.cursor.step, message=str(error)))
            if self._best_is_new:
                # These weights are lost: a later, worse validation may be the best that is kept.
                self.cursor.best = self._best_before
        else:
            self._saved_step = self.cursor.step
            self.event(Event(kind="checkpoint", step=self.cursor.step, message=path.name))
        self._best_is_new = False
        self._saved_at = perf_counter()
        self.meter.paused(self._saved_at - began)
