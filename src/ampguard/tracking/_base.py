"""The contract of a tracker: where the numbers of a run go.

A tracker takes rows of finite numbers (`{"step": 120, "train/loss": 1.93}`) and events. What a row may
hold is decided here, once, so that every tracker gets the same rows: keys are lower-case paths, values are
numbers, a value that is not finite is left out and named to the caller, who leaves an event.

A tracker never stops training: after its construction, `log`, `event` and `finish` raise only for a row that
no tracker could take, never for a disk or a network.

Not here: queues and threads for trackers that may hang; the JSONL tracker needs neither.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

from ampguard.errors import InputError

Row = Mapping[str, float | int]
"""One logged step: "step" and metrics by key."""

_KEY = re.compile(r"[a-z0-9_/]+")


class Tracker(ABC):
    """Takes the numbers and events of one run.

    The order is `start`, then `log` and `event` any number of times, then `finish`. The constructor of a member takes
    the run folder, a `Path`, and nothing else.
    """

    @abstractmethod
    def start(self, config: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it.

        Args:
            config: The resolved options of the run, plain JSON values.
        """

    @final
    def log(self, row: Row) -> tuple[str, ...]:
        """Hand over one row.

        Args:
            row: "step" and metrics; keys from [a-z0-9_/], values int or float.

        Returns:
            The keys that were left out because their values are not finite; empty as a rule.

        Raises:
            InputError: A key or a value that no tracker can take.
        """
        _check(row)
        kept = {key: value for key, value in row.items() if math.isfinite(value)}
        if len(kept) > 1:
            self._log(kept)
        return tuple(key for key in row if key not in kept)

    @abstractmethod
    def _log(self, row: Row) -> None:
        """Deliver a row that has been checked: "step" first among at least one metric, all finite."""

    @abstractmethod
    def event(self, row: Mapping[str, Any]) -> None:
        """Hand over one event: {"event", "step", "message", ...}, as `Event.as_dict` returns it."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run and deliver what is still waiting.

        Args:
            summary: Last value of each metric and the status, plain JSON values.
        """


class NullTracker(Tracker):
    """Takes everything and keeps nothing."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def _log(self, row: Row) -> None:
        """Do nothing."""

    def event(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


def _check(row: Row) -> None:
    """Refuse a row without an integer step, a key outside [a-z0-9_/], or a value that is not a number."""
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
