"""What a guard's steps tell the host: read from the ring, counted, turned into events, and judged.

Reading and judging are two things. `repr` and `state_dict` read, and must not raise; what they read is judged at the
next `check_every` or `read`, where `on_collapse` may raise.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch

from ampguard.engine.collapse import Limits
from ampguard.engine.config import GuardConfig
from ampguard.engine.readback import Ledger, Ring, Tally
from ampguard.records import Event, StepRecord

if TYPE_CHECKING:
    from ampguard.engine.guard import Guard

log = logging.getLogger("ampguard.engine")


class Law(Protocol):
    """What the host must know of a loss scale; each `LossScale` is one."""

    def host(self, value: float) -> float | None:
        """Return what to report for a value that was read from the device."""

    def after_skip(self, value: float) -> float:
        """Return the scale that follows a skipped step."""

    def at_floor(self, value: float) -> bool:
        """Return whether the scale can shrink no further."""


class Journal:
    """The host's knowledge of the steps.

    Args:
        config: Says how often to read, what is ordinary, and whom to tell.
        scale: Its law tells what followed a skip.
        lr: Applied steps -> the LR of the step that follows them.
        precision: The granted precision, for messages.
        device: Where the parameters live.
        guard: Whose steps they are, for `on_collapse`; None: a scaler's.
    """

    def __init__(
        self,
        config: GuardConfig,
        *,
        scale: Law,
        lr: Callable[[int], float],
        precision: str,
        device: torch.device,
        guard: "Guard | None" = None,
    ) -> None:
        self._config, self._guard = config, guard
        self.ring = Ring(config.check_every, device)
        self._ledger = Ledger(reported_scale=scale.host, scale_after_skip=scale.after_skip, lr=lr)
        self._limits = Limits(config.max_skip_streak, scale.at_floor, precision)
        self._unjudged: list[StepRecord] = []
        self._told: set[str] = set()

    @property
    def tally(self) -> Tally:
        """Steps counted up to the last read."""
        return self._ledger.tally

    @property
    def last(self) -> StepRecord | None:
        """The last step read; None before the first."""
        return self._ledger.last

    @property
    def attempted(self) -> int:
        """Steps written, read or not."""
        return self.tally.attempted + self.ring.filled

    def ignore_losses(self) -> None:
        """Take the loss as unknown from now on: where it is absent no event speaks of it."""
        self._ledger.loss_known = False

    def restart(self, tally: Tally) -> None:
        """Go on counting from a checkpoint; what was not read is dropped."""
        self.ring.filled = 0
        self._unjudged.clear()
        self._limits.restart()
        self._ledger.restart(tally)

    def set_law(self, scale: Law, precision: str) -> None:
        """Go on under another law of the loss scale."""
        self._ledger.reported_scale, self._ledger.scale_after_skip = scale.host, scale.after_skip
        self._limits = Limits(self._config.max_skip_streak, scale.at_floor, precision)

    def end_streak(self) -> float | None:
        """Count no streak; what was read of one is not judged. Return the loss scale that it began with, or None."""
        before = self.tally
        self._ledger.tally = replace(before, streak=0, streak_scale=None)
        self._limits.restart()
        self._unjudged.clear()
        return before.streak_scale

    def drain(self) -> bool:
        """Read and count what the device wrote, tell its events, and return whether there was any. Sync: one."""
        if not self.ring.filled:
            return False
        records = self._ledger.records(self.ring.read())
        for record in records:
            for event in self._ledger.events(record):
                self.tell(event)
        self._unjudged += records
        return True

    def judge(self) -> None:
        """Ask `on_collapse` about each limit that was passed since the last time, unless a watcher is at it."""
        records, self._unjudged = self._unjudged, []
        for record in records:
            collapse = self._limits.passed(record)
            if collapse is not None and not (self._guard is not None and self._guard.watched):
                collapse = replace(collapse, applied_again=_applied_again(records, collapse.first_skipped))
                data = {"cause": collapse.cause, "first_skipped": collapse.first_skipped}
                self.tell(Event(kind="collapse", step=record.step, message=collapse.message(), data=data))
                self._config.on_collapse(replace(collapse, guard=self._guard))

    def tell(self, event: Event) -> None:
        """Hand an event to `on_event`, or to the log: one WARNING of each kind."""
        if self._config.on_event is not None:
            self._config.on_event(event)
            return
        level = logging.DEBUG if event.kind in self._told else logging.WARNING
        self._told.add(event.kind)
        log.log(level, "step %d: %s: %s", event.step, event.kind, event.message)


def _applied_again(records: list[StepRecord], first_skipped: int) -> int | None:
    """Return the step that ended the streak which began with `first_skipped`, if it was read; else None.

    Not every applied step has a record, but each skipped one has, and the last.
    """
    streak = [r.step for r in records if not r.applied and r.step - r.skip_streak + 1 == first_skipped]
    return streak[-1] + 1 if records[-1].step > streak[-1] else None
