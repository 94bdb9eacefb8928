"""SIGINT and SIGTERM set a flag that the loop honours at the next step boundary; a second one exits at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_STATUS = {signal.SIGINT: "interrupted", signal.SIGTERM: "preempted"}


class StopFlag:
    """A context in which the two signals ask the run to stop. Outside the main thread it does nothing."""

    def __init__(self) -> None:
        self.status: str | None = None
        """"interrupted" after SIGINT, "preempted" after SIGTERM; None: go on."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _STATUS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.status is not None:
            # Checkpoints are atomic: leaving in the middle of one loses nothing that was saved.
            os._exit(128 + number)
        self.status = _STATUS[signal.Signals(number)]
