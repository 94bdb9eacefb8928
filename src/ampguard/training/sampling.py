"""`ranges_every`: now and then a step of the run is measured, and ranges.json in the run folder says what was found.

The measured step is the run's own: same batch, same precision, same numbers. Gradients are divided by the loss scale
before they are counted. Only a compiled model computes a measured step otherwise than the rest: eagerly. The file holds
every step measured so far by this process; a resumed run begins it anew.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from torch import nn

from ampguard.engine import Guard
from ampguard.hardware import inspect
from ampguard.health.range_record import ranges_record, write_record
from ampguard.health.ranges import Ranges

log = logging.getLogger("ampguard.training")

FILE = "ranges.json"


class Sampling(ABC):
    """Decides which steps are measured."""

    @abstractmethod
    def of(self, step: int) -> AbstractContextManager[object]:
        """Return the context for forward and backward of a step. Sync: none, unless the step is measured."""


class NoSampling(Sampling):
    """No step is measured."""

    def of(self, step: int) -> AbstractContextManager[object]:  # noqa: D102
        del step
        return nullcontext()


class RangeSampling(Sampling):
    """Every so many steps one is measured.

    Args:
        model: What is trained.
        guard: Knows the loss scale.
        task: Name of the Task.
        every: Steps from one measured step to the next.
        folder: The run folder.
    """

    def __init__(self, model: nn.Module, guard: Guard, task: str, every: int, folder: Path) -> None:
        self._ranges = Ranges(model)
        self._guard, self._task, self._every = guard, task, every
        self._path = folder / FILE
        self._steps: list[int] = []

    def of(self, step: int) -> AbstractContextManager[object]:  # noqa: D102
        return self._measured(step) if step % self._every == 0 else nullcontext()

    @contextmanager
    def _measured(self, step: int) -> Iterator[None]:
        policy = self._guard.decision.policy
        scale = self._guard.state_dict()["scale"]["scale"] if policy.scaled else 1.0
        with self._ranges.scaled_by(scale):
            yield
        self._steps.append(step)
        self._write()

    def _write(self) -> None:
        granted = self._guard.decision.granted
        record = ranges_record(
            self._ranges,
            task=self._task,
            device=inspect(self._guard.device).label,
            precision=granted,
            steps=self._steps,
            format="bf16" if granted.startswith("bf16") else "fp16",
        )
        try:
            write_record(self._path, record)
        except OSError as error:
            log.warning("%s could not be written: %s. The run goes on.", self._path, error)
