"""What is told of a tracker that fails: each cause once, aloud; an outage and its end as one event each.

An outage begins with a call that raises or does not return, and ends when everything due has been delivered. The first
outage of a cause (the call and the exception's type) is told at once. A later one of a cause that was told before is
told when it has lasted 10 s: a tracker that fails on every third call and takes the row at the second try makes one
warning, not hundreds, and no event about each event.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Literal

from ampguard.records import Event

TELL_AGAIN_S = 10.0
HANG_S = 10.0
"""A call that lasts longer counts as an outage while it lasts."""
START_HANG_S = 30.0
"""The same for `start`: a service may first make a database, or start a process (MLflow: seconds on a busy machine)."""


@dataclass(frozen=True)
class News:
    """An outage that began, or one that ended."""

    kind: Literal["tracker_outage", "tracker_recovered"]
    tracker: str
    cause: str
    """What it raised, on one line; for a recovery, what was wrong."""
    replayed: int = 0
    """Rows and events that were delivered since the outage began."""

    @property
    def message(self) -> str:
        """Return what a person is told."""
        if self.kind == "tracker_outage":
            return f"tracker {self.tracker}: {self.cause}"
        return f"tracker {self.tracker} is back; {self.replayed} rows and events that waited were replayed"

    def event(self, step: int) -> Event:
        """Return it as an event noticed at `step`."""
        replayed = {"replayed": self.replayed} if self.kind == "tracker_recovered" else {}
        data = {"tracker": self.tracker, "cause": self.cause, **replayed}
        return Event(kind=self.kind, step=step, message=self.message, data=data)


class Outages:
    """The failures of one tracker. The delivery thread reports, the loop's thread collects; neither waits.

    Args:
        tracker: Its name.
        clock: Returns seconds, monotone.
    """

    def __init__(self, tracker: str, *, clock: Callable[[], float] = monotonic) -> None:
        self._tracker, self._clock = tracker, clock
        self._lock = Lock()  # held for a few assignments, never during a call of the tracker
        self._news: deque[News] = deque()
        self._collected = False
        self._known: set[tuple[str, str]] = set()
        self._since: float | None = None
        self._told = False
        self._replayed = 0
        self._call: tuple[str, float] | None = None
        self.cause = ""
        """What is wrong now, on one line; "" while nothing is."""

    def calling(self, during: str) -> None:
        """A call of the tracker begins: `during` is start, held, log, event or finish."""
        self._call = (during, self._clock())

    def returned(self) -> None:
        """The call returned; if it was log or event, a row was taken."""
        with self._lock:
            during, self._call = (self._call or ("", 0.0))[0], None
            self._replayed += self._since is not None and during in ("log", "event")

    def raised(self, error: BaseException) -> None:
        """The call raised."""
        with self._lock:
            during, self._call = (self._call or ("call", 0.0))[0], None
            self._note((during, type(error).__name__), f"{during} raised {in_a_line(error)}")

    def caught_up(self) -> None:
        """Everything due has been delivered: an outage is over."""
        with self._lock:
            if self._told:
                self._news.append(News("tracker_recovered", self._tracker, self.cause, self._replayed))
            self._since, self._told, self._replayed, self.cause = None, False, 0, ""

    def look(self) -> None:
        """Notice a call that does not return. Called by the loop's thread, at its leisure."""
        with self._lock:
            # How long `finish` may take is for who waits for it.
            if self._call is None or self._call[0] == "finish":
                return
            during, began = self._call
            limit_s = START_HANG_S if during == "start" else HANG_S
            if self._clock() - began >= limit_s:
                self._note((during, "hang"), f"{during} has not returned for {limit_s:g} s")

    @property
    def during(self) -> str:
        """The tracker's call that is under way: start, held, log, event or finish; "" between two."""
        return (self._call or ("", 0.0))[0]

    @property
    def pending(self) -> bool:
        """Whether there is news, or the last that was collected may not have been written down yet."""
        return bool(self._news) or self._collected

    def news(self) -> list[News]:
        """Return what happened since the last call, whose news is written down by now."""
        found = [self._news.popleft() for _ in range(len(self._news))]
        self._collected = bool(found)
        return found

    def _note(self, key: tuple[str, str], cause: str) -> None:
        now = self._clock()
        self._since = now if self._since is None else self._since
        self.cause = cause
        if not self._told and (key not in self._known or now - self._since >= TELL_AGAIN_S):
            self._known.add(key)
            self._told = True
            self._news.append(News("tracker_outage", self._tracker, cause))


def in_a_line(error: BaseException) -> str:
    """Return an exception's type and first line, cut to 300 characters, without a password in a URL."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return re.sub(r"//[^/@\s]+:[^/@\s]+@", "//...@", text)[:300]
