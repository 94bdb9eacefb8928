"""What a Guard asks when skipping no longer helps.

A skipped step is ordinary; a long streak of them is not, nor is an overflow with the loss scale at its
floor. The guard then describes what it saw as a `Collapse` and lets a function handed in from above decide.
The question comes at a read of the device, up to `check_every` steps late. The lag loses nothing: every
step of the streak left the state untouched. A streak that ended meanwhile is asked about all the same, and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from ampguard.errors import CollapseError
from ampguard.records import StepRecord

if TYPE_CHECKING:
    from ampguard.engine.guard import Guard

FLOOR_STREAK = 2
"""Skips in a row at the floor that make a collapse: one bad batch is no collapse, at whatever scale."""


class Action(Enum):
    """What to do about a collapse."""

    CONTINUE = "continue"
    """Go on; the streak is counted afresh."""


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """What the guard saw: the run no longer moves."""

    step: int
    """The attempted step at which the limit was passed."""
    first_skipped: int
    """The first step of the streak: the state still is the one before it."""
    skip_streak: int
    loss_scale: float | None
    """Loss scale of that step; None without scaling."""
    cause: Literal["floor", "streak"]
    precision: str
    applied_again: int | None = None
    """The first step after the streak that was applied, where the same read told of it; None: it goes on."""
    guard: "Guard | None" = field(default=None, repr=False, compare=False)
    """The guard that asks: it can be watched and fall back. None: a GradScaler asks, which can not."""

    def message(self) -> str:
        """Return what happened and what to look at, as one sentence."""
        scale = "" if self.loss_scale is None else f", loss scale {self.loss_scale:g}"
        limit = "at the floor of the loss scale" if self.cause == "floor" else "which is too many"
        now = f"The weights are those before step {self.first_skipped}."
        if self.applied_again is not None:
            now = f"The streak is over: step {self.applied_again} was applied."
        return (
            f"{self.skip_streak} steps in a row were skipped since step {self.first_skipped} because a gradient was "
            f"not finite ({self.precision}{scale}), {limit}. {now}"
        )


class Watcher(Protocol):
    """What looks at a guard's steps for a while (`Guard.watch`); it may synchronise, fall back, and raise."""

    def step_end(self, guard: "Guard") -> None:
        """Called at the end of each step, applied or not, before its row is judged."""

    def close(self) -> None:
        """Called when another takes its place, or none."""


def raise_collapse(collapse: Collapse) -> Action:
    """Raise CollapseError: the default of a bare Guard.

    Raises:
        CollapseError: Always.
    """
    raise CollapseError(
        collapse.message(),
        hint="Look for inf or NaN in the data and for a learning rate that is too high; "
        "with fp16, try precision 'bf16-mixed' or 'fp32'.",
    )


class Limits:
    """Sees a collapse in the records, once for each time that a limit is passed.

    Args:
        max_skip_streak: Skipped steps in a row that are still ordinary.
        at_floor: Whether a loss scale can shrink no further.
        precision: The granted precision, for the message.
    """

    def __init__(self, max_skip_streak: int, at_floor: Callable[[float], bool], precision: str) -> None:
        self._max_skip_streak = max_skip_streak
        self._at_floor = at_floor
        self._precision = precision
        self.restart()

    def restart(self) -> None:
        """Count the streak afresh."""
        self._answered = 0

    def passed(self, record: StepRecord) -> Collapse | None:
        """Return the collapse that `record` shows, or None."""
        if record.applied:
            self._answered = 0
            return None
        streak = record.skip_streak - self._answered
        floored = record.loss_scale is not None and self._at_floor(record.loss_scale) and streak >= FLOOR_STREAK
        if not floored and streak <= self._max_skip_streak:
            return None
        self._answered = record.skip_streak
        return Collapse(
            step=record.step,
            first_skipped=record.step - record.skip_streak + 1,
            skip_streak=record.skip_streak,
            loss_scale=record.loss_scale,
            cause="floor" if floored else "streak",
            precision=self._precision,
        )
