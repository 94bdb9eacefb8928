"""The training loop: data, steps, rows, validations, checkpoints. It uses the Guard's public surface only.

Everything that happens between two steps happens at a step boundary, keyed by the ordinal of the attempted step,
so that a run that was stopped and resumed writes what the uninterrupted run writes. Left out: workers' death,
out-of-memory splitting, ranks.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ampguard.checkpointing import CheckpointStore, collect
from ampguard.engine import Guard
from ampguard.errors import CollapseError, ConfigError, TaskError, UserCodeError
from ampguard.records import Event, RunStatus
from ampguard.task import Batch, Task
from ampguard.tracking import Deliveries, RunLog
from ampguard.training.attempt import attempt
from ampguard.training.callbacks import Callbacks, StepEnd
from ampguard.training.compiling import Compilation
from ampguard.training.config import VALIDATIONS, TrainConfig
from ampguard.training.data import TrainData, leading, val_batches
from ampguard.training.evaluate import evaluate
from ampguard.training.meter import Meter
from ampguard.training.monitor import Monitor
from ampguard.training.preempt import EVENTS, StopFlag
from ampguard.training.progress import Progress
from ampguard.training.recorder import Recorder, replay_command
from ampguard.training.sampling import Sampling


@dataclass
class Cursor:
    """Where the run stands: what a checkpoint keeps beside weights and optimizer."""

    step: int = 0
    """Attempted steps."""
    epoch: int = 0
    position: int = 0
    """Batches of the epoch that were taken."""
    wall_s: float = 0.0
    """Seconds spent by earlier parts of the run."""
    final: dict[str, float] | None = None
    """Last value of each metric."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of, ready to be used."""

    model: nn.Module
    optimizer: Optimizer
    guard: Guard
    data: TrainData
    monitor: Monitor
    compilation: Compilation
    store: CheckpointStore
    recorder: Recorder
    sampling: Sampling
    tracker: RunLog
    deliveries: Deliveries
    progress: Progress
    callbacks: Callbacks


class Loop:
    """One run's loop over ready-made parts.

    Args:
        task: What is trained.
        config: How.
        parts: Built from both.
        steps: Optimizer steps to attempt.
        stop: Asks the loop to end.
    """

    def __init__(self, task: Task, config: TrainConfig, parts: Parts, *, steps: int, stop: StopFlag) -> None:
        self.task, self.config, self.parts, self.steps = task, config, parts, steps
        self._stop = stop
        self._model, self._guard = parts.model, parts.guard
        self.cursor = Cursor(final={})
        self._reader: Iterator[Batch] | None = None
        self.meter = Meter(parts.guard.device)
        self._began = self._saved_at = perf_counter()
        self._saved_step: int | None = None
        self._best_is_new = False
        self._validate_every = config.validate_every or max(1, -(-steps // VALIDATIONS))
        self._checkpoint_steps, self._checkpoint_s = config.checkpoint_interval()

    @property
    def wall_s(self) -> float:
        """Seconds of the whole run, earlier parts included."""
        return self.cursor.wall_s + perf_counter() - self._began

    def run(self) -> RunStatus:
        """Train to the last step, or to the boundary at which somebody asks to stop; return how it ended."""
        self._model.train()
        if self.parts.monitor.exhausted:
            self._stop.ask("stopped_early", self.parts.monitor.exhausted)
        try:
            self.advance(self.steps)
        except CollapseError as error:
            # The step that found it was attempted and undone: the run stands behind it.
            self.cursor.step = self._guard.attempted
            self._guard.end_streak()
            self.checkpoint()
            self._leave_bundles()
            if self.parts.recorder.last is not None:
                error.hint = f"{error.hint} Look again: {replay_command(self.parts.recorder.last)}.".strip()
            raise
        finally:
            # A search for the module at fault holds hooks on the model.
            self._guard.watch(None)
        status = self._end()
        self.checkpoint()
        self._leave_bundles()
        self.parts.callbacks.tell_events()
        return status

    def advance(self, to: int) -> None:
        """Attempt steps until `to`, or until somebody asks to stop."""
        while self.cursor.step < to and not self._stop.asked():
            asked = perf_counter()
            batch = self.next_batch()
            self.meter.waited(perf_counter() - asked)
            self.parts.recorder.ring.note(self.cursor.step + 1, self.cursor.epoch, self.cursor.position - 1)
            self.attempt(batch)
            self._boundary()

    def next_batch(self) -> Batch:
        """Return the batch of the step that follows."""
        if self._reader is None:
            self._reader = self._batches()
        return next(self._reader)

    def _end(self) -> RunStatus:
        status = self._stop.status
        if self.cursor.step >= self.steps or status is None:
            return "finished"
        self.event(Event(kind=EVENTS[status], step=self.cursor.step, message=self._stop.reason))
        return status

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, as plain values."""
        data, monitor = self.parts.data.state_dict(), self.parts.monitor.state_dict()
        return {**vars(self.cursor), "wall_s": self.wall_s, "data": data, "monitor": monitor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where a checkpoint was taken."""
        rest = dict(state)
        self.parts.data.load_state_dict(rest.pop("data"))
        self.parts.monitor.load_state_dict(rest.pop("monitor"))
        self.cursor, self._reader = Cursor(**rest), None
        self._saved_step = self.cursor.step

    def event(self, event: Event) -> None:
        """Write an event down and show it; callbacks hear of it at the boundary."""
        self.parts.recorder.note(event)
        self.parts.tracker.event(event.as_dict())
        self.parts.progress.event(event)
        self.parts.callbacks.note(event)

    def _batches(self) -> Iterator[Batch]:
        while True:
            start = self.cursor.position
            for batch in self.parts.data.batches(self.cursor.epoch, start):
                self.cursor.position += 1
                yield batch
            if self.cursor.position == start == 0:
                raise TaskError(f"Task {self.task.name!r}: train_data yields no batch.")
            self.cursor.epoch, self.cursor.position = self.cursor.epoch + 1, 0

    def attempt(self, batch: Batch) -> None:
        """Attempt one step on a batch, in micro-batches."""
        with self.parts.sampling.of(self.cursor.step + 1):
            self._applied = attempt(self.task, self._model, self._guard, batch, self.config.micro_batch_size)
        self.cursor.step += 1
        self.meter.stepped(self.task.count(batch) if self.task.count else {"samples": leading(batch)})

    def _boundary(self) -> None:
        step, last = self.cursor.step, self.cursor.step == self.steps
        row = self._train_row() if last or step % self.config.log_every == 0 else {}
        validated = self._validate() if last or step % self._validate_every == 0 else {}
        self.parts.progress.step(step)
        if row or validated:
            self._log({"step": step, **row, **validated})
        if validated:
            self._judge(validated)
        self._tell(validated)
        self._leave_bundles()
        if not last and self._checkpoint_due():
            self.checkpoint()

    def _train_row(self) -> dict[str, float | int]:
        for event in self.parts.compilation.news(self.cursor.step):
            self.event(event)
        row = self._guard.read().metrics(enabled=self._guard.decision.policy.autocasts)
        return row | self.meter.row()

    def _log(self, row: Mapping[str, float | int]) -> None:
        for key in self.parts.tracker.log(row):
            self.event(Event(kind="nonfinite", step=self.cursor.step, message=f"{key} was not finite"))
        self.cursor.final = {**(self.cursor.final or {}), **{k: v for k, v in row.items() if k != "step"}}
        self.parts.progress.row(row)
        for event in self.parts.deliveries.wake(self.cursor.step):
            self.event(event)

    def _tell(self, validated: Mapping[str, float]) -> None:
        """Call the callbacks; if one raises, the step that it was told of is saved first."""
        callbacks = self.parts.callbacks
        try:
            if callbacks.wants_steps:
                callbacks.step_end(self._step_end())
            if validated:
                callbacks.validation_end(self.cursor.step, validated)
            callbacks.tell_events()
        except UserCodeError:
            self.checkpoint()
            raise

    def _step_end(self) -> StepEnd:
        return StepEnd(
            step=self.cursor.step,
            epoch=self.cursor.epoch,
            loss=self._guard.loss,
            applied=self._applied,
            model=self._model,
            stop=lambda reason: self._stop.ask("stopped_early", reason),
        )

    def _validate(self) -> dict[str, float]:
        if self.task.val_data is None:
            return {}
        began = perf_counter()
        with self._guard.averaged() if self.config.ema is not None else nullcontext():
            metrics = evaluate(
                self.task,
                self._model,
                val_batches(
                    self.task, self.config.val_batch_size or self.config.batch_size, workers=self.config.workers
                ),
                device=self._guard.device,
                autocast=self._guard.autocast(),
            )
        self.meter.paused(perf_counter() - began)
        return metrics

    def _judge(self, metrics: Mapping[str, float]) -> None:
        try:
            verdict = self.parts.monitor.judge(metrics)
        except ConfigError:
            # Only the first validation tells which metrics there are: what was trained until then is kept.
            self.checkpoint()
            raise
        self._best_is_new |= verdict.best
        if verdict.lr_factor != self._guard.lr_factor:
            self._guard.lr_factor = verdict.lr_factor
            message = f"{self.config.monitor} stands still: the LR is multiplied by {verdict.lr_factor:g}"
            data = {"factor": verdict.lr_factor}
            self.event(Event(kind="lr_lowered", step=self.cursor.step, message=message, data=data))
        if verdict.stop:
            self._stop.ask("stopped_early", verdict.stop)

    def _checkpoint_due(self) -> bool:
        if self._best_is_new:
            return True
        if self._checkpoint_steps is not None:
            return self.cursor.step % self._checkpoint_steps == 0
        return perf_counter() - self._saved_at >= (self._checkpoint_s or 0.0)

    def _leave_bundles(self) -> None:
        """Write a replay bundle for each step that was found not finite since the last boundary."""
        if self.parts.recorder.wanted:
            for event in self.parts.recorder.leave(self._collect, self._saved):
                self.event(event)

    def _collect(self) -> dict[str, Any]:
        parts, progress = self.parts, self.state_dict()
        return collect(model=parts.model, optimizers=[parts.optimizer], guard=parts.guard, progress=progress)

    def _saved(self) -> Path | None:
        """Return a checkpoint of the run as it stands; taken, if there is none."""
        self.checkpoint()
        return self.parts.store.pointed("latest") if self._saved_step == self.cursor.step else None

    def checkpoint(self) -> None:
        """Save the run as it stands; a disk that fails costs an event, and the next checkpoint tries again."""
        if self._saved_step == self.cursor.step:
            return
        began, parts = perf_counter(), self.parts
        state = self._collect()
        try:
            parts.tracker.sync()
            path = parts.store.save(self.cursor.step, state, best=self._best_is_new)
        except OSError as error:
            self.event(Event(kind="checkpoint_failed", step=self.cursor.step, message=str(error)))
            if self._best_is_new:
                parts.monitor.forget_best()
        else:
            self._saved_step = self.cursor.step
            self.event(Event(kind="checkpoint", step=self.cursor.step, message=path.name))
            parts.callbacks.checkpoint(self.cursor.step, path)
        self._best_is_new = False
        self._saved_at = perf_counter()
        self.meter.paused(self._saved_at - began)
