"""What the last attempted steps began with: their place in the data and every generator's state. A few us a step.

A step that was not finite is known only when the device is read, up to `check_every` steps later. By then its batch is
gone, but data is a pure function of (seed, epoch, position), so the place is enough to read it again; and with the
generators' states its dropout masks come again, too. The ring lives on the host and asks no device for anything.

Left out: the weights. Where no step was applied since, they are still those of the step (`guard` undoes a skip).
"""

from collections import deque
from dataclasses import dataclass

import torch

from ampguard.task import Batch
from ampguard.training.data import TrainData
from ampguard.training.replay_rng import RngReader, RngState

MOST_STEPS = 4096
"""Steps that a ring holds at most: 40 MiB where every step draws from all generators, 10 KiB a step."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempted step began with."""

    step: int
    epoch: int
    position: int
    """Ordinal of its batch in the epoch, from 0."""
    rng: RngState


class ReplayRing:
    """The last attempted steps.

    Args:
        steps: How many: the lag of a read, and the longest streak that may follow.
        data: Where their batches can be read again.
        device: The training device.
    """

    def __init__(self, steps: int, data: TrainData, device: torch.device) -> None:
        self._attempts: deque[Attempt] = deque(maxlen=min(steps, MOST_STEPS))
        self._data = data
        self._rng = RngReader(device)

    def note(self, step: int, epoch: int, position: int) -> None:
        """Keep what the step that now begins starts with. Sync: none."""
        self._attempts.append(Attempt(step, epoch, position, self._rng.read()))

    def attempt(self, step: int) -> Attempt | None:
        """Return what a step began with; None: it is too long ago, or another process's."""
        return next((attempt for attempt in reversed(self._attempts) if attempt.step == step), None)

    def rebuild(self, step: int) -> Batch:
        """Return a step's batch, read again: bit by bit the one that the run saw, on the host.

        Whoever reads the data on is not disturbed, and the generators are left as they were.

        Raises:
            LookupError: The step is not in the ring.
            TaskError: Data of this kind cannot be read again while it is being read.
        """
        attempt = self.attempt(step)
        if attempt is None:
            raise LookupError(f"step {step} is not among the last {len(self._attempts)}")
        return self._data.again(attempt.epoch, attempt.position)
