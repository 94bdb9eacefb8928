"""Look at the bad batch itself, within the run: `locate`, *replayed*.

An armed `Locator` waits for the next step that is not finite. Where the ring still has the step that was, its batch can
be read again and its forward and backward run once more, at once:

    locate = ReplayedLocate(task, guard, ring)
    seen = locate(collapse.step, loss_scale=collapse.loss_scale)
    print(seen.finding, seen.exact)

It is exact where no step was applied since. Generators, buffers, gradients and the reading of the data are put back:
the run goes on bit by bit as without it. Left out: what the Task's own loss or dataset remembers from call to call, and
the precision before a fallback.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ampguard.checkpointing import capture_rng, restore_rng
from ampguard.engine import Collapse, Guard
from ampguard.errors import TaskError
from ampguard.health import Locator, Seen
from ampguard.precision import autocast
from ampguard.task import Batch, LossSum, Task
from ampguard.training.data import leading, split, to_device
from ampguard.training.replay_ring import ReplayRing
from ampguard.training.replay_rng import restore_state

log = logging.getLogger("ampguard.training")


class ReplayedLocate:
    """Runs a step's forward and backward once more under a Locator; the state of the run is left as it was.

    Args:
        task: Its loss is used.
        guard: Of the run.
        ring: What the last steps began with.
        micro_batch_size: As in the run.
    """

    def __init__(self, task: Task, guard: Guard, ring: ReplayRing, micro_batch_size: int | None = None) -> None:
        self._task, self._guard, self._ring, self._micro = task, guard, ring, micro_batch_size

    def __call__(self, step: int, *, loss_scale: float | None = None) -> Seen:
        """Return what was not finite first in a step.

        Args:
            step: One of the last attempted steps.
            loss_scale: Loss scale that it was taken with; None: without scaling.

        Raises:
            LookupError: The step is not in the ring.
            TaskError: Data of this kind cannot be read again while it is being read.

        Sync: many.
        """
        guard, attempt = self._guard, self._ring.attempt(step)
        batch = self._ring.rebuild(step)
        tally = guard.state_dict()["tally"]
        exact = tally["attempted"] - tally["streak"] < step
        with _untouched(guard.model), Locator(guard.model, loss_scale=loss_scale) as locator:
            if attempt is not None:
                exact &= not restore_state(attempt.rng.as_dict(guard.device), guard.device)
            self._run(batch, locator, loss_scale or 1.0)
            return Seen(finding=locator.finding, exact=exact)

    def look(self, collapse: Collapse) -> Seen | None:
        """Return what the step of a collapse shows; None where it cannot be run again, which is no reason to stop."""
        try:
            return self(collapse.step, loss_scale=collapse.loss_scale)
        except (LookupError, TaskError, torch.OutOfMemoryError) as error:
            log.info("step %d cannot be run again: %s", collapse.step, error)
            return None

    def _run(self, batch: Batch, locator: Locator, scale: float) -> None:
        guard, count = self._guard, leading(batch)
        for part in split(batch, self._micro) if self._micro else [batch]:
            part = to_device(part, guard.device)
            share = leading(part) / count
            with autocast(guard.decision.policy, guard.device.type):
                loss = self._task.loss(guard.model, part)
            value = loss.total / loss.count if isinstance(loss, LossSum) else loss
            locator.check_loss(value)
            (value * (scale * share)).backward()  # type: ignore[no-untyped-call]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put generators, buffers, gradients and modes back."""
    rng, buffers = capture_rng(), [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients: list[tuple[nn.Parameter, Tensor | None]] = [(p, p.grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        # A guard asks from within its step, where gradients are not recorded.
        with torch.enable_grad():
            model.train()
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        restore_rng(rng)
