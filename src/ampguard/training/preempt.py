"""What asks a run to stop at the next step boundary: SIGINT, SIGTERM, a deadline, or a caller with a reason.

A second signal exits at once. The first reason holds.
"""

import os
import signal
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Literal

from ampguard.records import EventKind

StopStatus = Literal["interrupted", "preempted", "stopped_early"]

_SIGNALS: dict[signal.Signals, StopStatus] = {signal.SIGINT: "interrupted", signal.SIGTERM: "preempted"}
EVENTS: dict[StopStatus, EventKind] = {
    "interrupted": "interrupted",
    "preempted": "preempted",
    "stopped_early": "early_stop",
}


class StopFlag:
    """A context in which the two signals ask the run to stop. Outside the main thread they do not.

    Args:
        max_time_s: Seconds from now on after which the run is asked to stop; None: no limit.
        clock: Returns seconds, monotone.
    """

    def __init__(self, max_time_s: float | None = None, *, clock: Callable[[], float] = monotonic) -> None:
        self.status: StopStatus | None = None
        """What the run will have been when it stops; None: go on."""
        self.reason = ""
        """Why, for people."""
        self._signalled = False
        self._before: dict[signal.Signals, Any] = {}
        self._clock = clock
        self._max_time_s = max_time_s
        self._deadline = None if max_time_s is None else clock() + max_time_s

    @property
    def signalled(self) -> bool:
        """Whether a signal came; the next one exits at once."""
        return self._signalled

    def ask(self, status: StopStatus, reason: str) -> None:
        """Ask the run to stop at the next step boundary."""
        if self.status is None:
            self.status, self.reason = status, reason

    def asked(self) -> bool:
        """Return whether the run is to stop now; looks at the clock."""
        if self.status is None and self._deadline is not None and self._clock() >= self._deadline:
            self.ask("preempted", f"max_time of {self._max_time_s:g} s is over")
        return self.status is not None

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signalled:
            # Checkpoints are atomic: leaving in the middle of one loses nothing that was saved.
            os._exit(128 + number)
        self._signalled = True
        self.ask(_SIGNALS[signal.Signals(number)], signal.Signals(number).name)
