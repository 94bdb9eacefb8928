"""What the host learns, and when.

Each step writes one row (loss, norm, divisor, loss scale, found_inf) into a ring on the device. The host reads
it with one blocking copy every `check_every` steps, or when it is asked. Everything else it needs (applied and
skipped steps, the streak, the LR) follows from the rows by counting, so the device keeps no counters for it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import torch
from torch import Tensor

from ampguard.records import Event, StepRecord

COLUMNS = ("loss", "scaled_norm", "unscale", "loss_scale", "found_inf")


class Ring:
    """Rows that the device has written and the host has not read.

    Args:
        rows: Capacity: steps between two reads.
        device: Where the parameters live.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._table = torch.zeros((rows, len(COLUMNS)), dtype=torch.float32, device=device)
        self._rows = self._table.unbind()
        self.filled = 0

    def write(self, values: tuple[Tensor, ...]) -> None:
        """Append a row of scalars, each float32 and of shape (). Sync: none."""
        torch.stack(values, out=self._rows[self.filled])
        self.filled += 1

    def read(self) -> list[list[float]]:
        """Return the rows since the last read, and empty the ring. Sync: one."""
        rows: list[list[float]] = self._table[: self.filled].tolist()
        self.filled = 0
        return rows


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Steps counted up to the last row read."""

    attempted: int = 0
    applied: int = 0
    skipped: int = 0
    streak: int = 0
    streak_scale: float | None = None
    """Loss scale of the streak's first step, to which a fallback returns; None without streak or scale."""


@dataclass(kw_only=True)
class Ledger:
    """Turns rows into records and events.

    The scale's law and the schedule come in as functions of numbers.
    """

    reported_scale: Callable[[float], float | None]
    scale_after_skip: Callable[[float], float]
    lr: Callable[[int], float]
    loss_known: bool = True
    """Whether a loss that is not finite was one; False: nobody told the loss."""
    tally: Tally = field(default_factory=Tally)
    last: StepRecord | None = None

    def restart(self, tally: Tally) -> None:
        """Go on counting from a checkpoint."""
        self.tally, self.last = tally, None

    def records(self, rows: Sequence[Sequence[float]]) -> list[StepRecord]:
        """Count all rows and return the records of those that anybody asks about, the last among them.

        An applied step that is followed by another is only counted: nearly every row of a healthy run.
        """
        records: list[StepRecord] = []
        quiet = 0
        for row, after in zip_longest(rows, rows[1:]):
            if after is not None and row[-1] == after[-1] == 0.0:
                quiet += 1
            else:
                self._pass_over(quiet)
                quiet = 0
                records.append(self.record(row))
        return records

    def _pass_over(self, applied: int) -> None:
        if applied:
            before = self.tally
            self.tally = replace(
                before,
                attempted=before.attempted + applied,
                applied=before.applied + applied,
                streak=0,
                streak_scale=None,
            )

    def record(self, row: Sequence[float]) -> StepRecord:
        """Count one row and return it as a record."""
        loss, scaled_norm, unscale, scale, found_inf = row
        applied, before = found_inf == 0.0, self.tally
        began = before.streak_scale if before.streak else self.reported_scale(scale)
        self.tally = replace(
            before,
            attempted=before.attempted + 1,
            applied=before.applied + applied,
            skipped=before.skipped + (not applied),
            streak=0 if applied else before.streak + 1,
            streak_scale=None if applied else began,
        )
        self.last = StepRecord(
            step=self.tally.attempted,
            loss=finite(loss),
            grad_norm=finite(scaled_norm / unscale) if applied else None,
            loss_scale=self.reported_scale(scale),
            applied=applied,
            applied_steps=self.tally.applied,
            skipped_steps=self.tally.skipped,
            skip_streak=self.tally.streak,
            lr=self.lr(before.applied),
        )
        return self.last

    def events(self, record: StepRecord) -> list[Event]:
        """Return what a person may want to know about a record: nothing, if it was applied."""
        if record.applied:
            return []
        data: dict[str, float] = {"skip_streak": record.skip_streak, "applied_steps": record.applied_steps}
        if record.loss_scale is not None:
            data["loss_scale"] = record.loss_scale
        found = [Event(kind="skip", step=record.step, message="a gradient was not finite", data=data)]
        if record.loss is None and self.loss_known:
            found.append(Event(kind="nonfinite", step=record.step, message="the loss was not finite"))
        if record.loss_scale is not None:
            to = self.scale_after_skip(record.loss_scale)
            if to == record.loss_scale:
                return found
            message = f"loss scale {record.loss_scale:g} -> {to:g}"
            found.append(
                Event(
                    kind="scale_backoff", step=record.step, message=message, data={"from": record.loss_scale, "to": to}
                )
            )
        return found


def finite(value: float) -> float | None:
    """Return `value`, or None where it is inf or NaN."""
    return value if math.isfinite(value) else None
