"""The contract of a tracker: a service or a format that the numbers of a run are sent to.

The rows of a run stand in its folder first (`_run_log.py`); a tracker gets them from there, in a thread of its own
(`_delivery.py`), in order, each once. Training never waits for it and never fails with it, so that a member may raise
or hang wherever its service does: it says what went wrong and leaves guarding, retrying and remembering to delivery.

What a row may hold is decided here, once, so that every tracker gets the same rows: keys are lower-case paths, values
are numbers, a value that is not finite is left out and named to the caller, who leaves an event.

How a member is called:

    __init__(run_dir)         in the thread of the training loop, before training
    start(facts, previous)    from here on in the delivery thread, one call at a time; again after a raise
    held()                    after start, and after a raise of log
    log(row), event(row)      any number of times, in any order
    finish(summary)           last; again after a raise
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from ampguard.errors import InputError

Row = Mapping[str, float | int]
"""One logged step: "step" and metrics by key."""

_KEY = re.compile(r"[a-z0-9_/]+")


class Tracker(ABC):
    """Takes the numbers and events of one run and hands them on.

    A member is a public module of this package that defines one public class; or a class of the user's own, named by
    `--track my_tracker.py:MyTracker`.

    Args:
        run_dir: The run folder; it need not exist yet, and nothing is written before `start`.

    Raises:
        MissingExtraError: The package that it needs is not installed. The run does not begin.
        Exception: Any other, such as an import that fails half-way: one warning, and the run goes on without this
            tracker.
    """

    def __init__(self, run_dir: Path) -> None:
        """Import what is needed (here, not at module level), and notice a run that the user has active already.

        Called in the user's thread because what is active is often known there only. Fast, and without a network.
        """
        self.run_dir = run_dir

    @abstractmethod
    def start(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Mapping[str, str]:
        """Begin the run in the service, or go on with it. May raise or hang; after a raise it is called again.

        Args:
            facts: What `run.toml` holds, plain values: "task" ({"name", ...}), "precision" ({"requested", "granted",
                "reason"}), "device" (text), "config" (the resolved options), "versions"; with it "name" (of the run:
                its folder's name), "tags" (texts: Task, granted precision, device) and, for a run that belongs to
                others, such as a trial of a search, "group" (text).
            previous: What `start` returned when this run was sent to this tracker before, by this process or an
                earlier one; empty at first.

        Returns:
            What finds the run in the service again: ids by name, and "url" or "path" for people, if there is one.
            They are kept in the run folder, so no secrets.
        """

    def held(self) -> int | None:
        """Return the last step that the service holds of this run, for rows after it are what it still gets.

        Asked after `start`, for a process may have died after a row was taken and before that was noted down; and
        before a row is handed over again, for the service may have taken it and only the answer was lost.

        Returns:
            The step; 0: it holds no row; None: it cannot tell for certain (also: the run is the user's own, and may
            hold rows of others), and what was noted down counts.
        """
        return None

    @final
    def log(self, row: Row) -> tuple[str, ...]:
        """Hand over one row.

        Args:
            row: "step" and metrics; keys from [a-z0-9_/], values int or float.

        Returns:
            The keys that were left out because their values are not finite; empty as a rule.

        Raises:
            InputError: A key or a value that no tracker can take.
            Exception: Whatever the service raises.
        """
        kept, left_out = checked(row)
        if kept:
            self._log(kept)
        return left_out

    @abstractmethod
    def _log(self, row: Row) -> None:
        """Deliver a row that has been checked: "step" first among at least one metric, all finite.

        Steps rise from row to row. May raise or hang; after a raise the same row is handed over again, so that a
        raise must mean that the row was not taken.
        """

    @abstractmethod
    def event(self, row: Mapping[str, Any]) -> None:
        """Deliver one event: {"event", "step", "message", ...}, plain JSON values, as a line of `events.jsonl` holds.

        Events stand in the order in which they were noticed: their steps may be lower than those of rows before. May
        raise or hang, as `_log`.
        """

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run and deliver what the member still buffers. May raise or hang.

        A run that the user had active is left active. A run that was interrupted may be started again later, by
        another process, with what `start` returned.

        Args:
            summary: The RunRecord as `run.json` holds it: "status" (finished, stopped_early, interrupted, preempted,
                failed), "steps", "final" (last value of each metric) ...; empty for a run that left none (killed).
        """


class NullTracker(Tracker):
    """Takes everything and keeps nothing."""

    def start(self, facts: Mapping[str, Any], previous: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """Do nothing."""
        return {}

    def _log(self, row: Row) -> None:
        """Do nothing."""

    def event(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


def checked(row: Row) -> tuple[Row, tuple[str, ...]]:
    """Return what of a row can be sent, "step" first, and the keys that cannot, because they are not finite.

    Returns:
        The row, empty if no metric of it is finite; and the keys.

    Raises:
        InputError: It has no integer step, a key outside [a-z0-9_/], or a value that is not a number.
    """
    _check(row)
    kept = {"step": row["step"], **{key: value for key, value in row.items() if math.isfinite(value)}}
    return (kept if len(kept) > 1 else {}), tuple(key for key in row if key not in kept)


def _check(row: Row) -> None:
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise InputError(f"a row has step {step!r}, not an integer.", hint='Give every row its "step".')
    for key, value in row.items():
        if not _KEY.fullmatch(key):
            raise InputError(
                f"the metric name {key!r} has characters outside [a-z0-9_/].",
                hint=f"Rename it, for example to {re.sub(r'[^a-z0-9_/]+', '_', key.lower())!r}.",
            )
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(
                f"the metric {key!r} is a {type(value).__name__}, not a number.",
                hint="Give an int or a float; leave out a value that is not defined.",
            )
