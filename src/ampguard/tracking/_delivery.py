"""The delivery of a run to one tracker: a thread that follows the run's files.

The files are the queue. The thread sends what stands in `metrics.jsonl` and `events.jsonl` past the tracker's
high-water mark, in order, each row once, and then sleeps until the loop wakes it. So delivery as it goes, replay after
an outage, the rest of a resumed run and `ampguard track` are one path, and memory is one row. A call that raises is
repeated, after 0.5 s and then twice as long each time, up to 30 s; rows wait in the file meanwhile.

While the run goes on, the thread uses at most 1 % of a core, by its own CPU time: it shares the interpreter with the
loop, which a replay of thousands of rows at full speed would slow down.

The thread is a daemon: a call that never returns keeps neither the loop nor the process. `close` tells it to leave; if
it is inside a call then, it leaves after it, and what that call delivered is not noted down.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from threading import Event as Flag
from threading import Thread
from time import monotonic, thread_time
from typing import Any, TypeVar

from ampguard.errors import InputError
from ampguard.tracking._base import Row, Tracker, checked
from ampguard.tracking._find import label
from ampguard.tracking._high_water import HighWater, digest
from ampguard.tracking._outages import Outages
from ampguard.tracking._rows import step_of
from ampguard.tracking._tail import Tail

_log = logging.getLogger("ampguard.tracking")
_Result = TypeVar("_Result")

THREAD_PREFIX = "ampguard-track-"
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
DUTY = 0.01
"""Share of a core that a delivery takes while the run goes on."""
NAP_S = 0.01
"""Shortest sleep that is worth its overhead."""
LONGEST_NAP_S = 5.0
"""What a call that burns seconds, for it imports something, costs at most."""
SAVE_EVERY = 100
"""Rows of a replay between two writes of the mark; what it sends singly it notes singly."""


class Delivery:
    """One tracker's deliveries.

    Args:
        name: What the tracker was asked for by.
        tracker: Used by the thread alone from `start` on.
        run_dir: The run folder, which this process has locked.
    """

    def __init__(self, name: str, tracker: Tracker, run_dir: Path) -> None:
        self.name = name
        self.outages = Outages(name)
        self.mark = HighWater.unsent(run_dir, label(name))
        self.rows_sent = self.events_sent = 0
        self.done = False
        """Everything was delivered, and the tracker finished."""
        self._tracker, self._run_dir = tracker, run_dir
        self._metrics, self._events = Tail(run_dir / "metrics.jsonl"), Tail(run_dir / "events.jsonl")
        self._facts: Mapping[str, Any] = {}
        self._summary: Mapping[str, Any] = {}
        self._awake, self._ending, self._closed = Flag(), Flag(), Flag()
        self._retry_s = FIRST_RETRY_S
        # Not the global generator: that one is part of the run.
        self._jitter = Random()
        self._retrying = False
        self._free_at = self._paced_at = self._cpu_s = 0.0
        self._unsaved = 0
        self._thread = Thread(target=self._run, name=THREAD_PREFIX + label(name), daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self, facts: Mapping[str, Any]) -> None:
        """Begin to deliver from where the mark in the run folder stands. facts: for `Tracker.start`."""
        self._facts = facts
        self.mark = HighWater.of(self._run_dir, label(self.name))
        self._thread.start()

    def wake(self) -> None:
        """Tell the thread that there are new rows. Returns at once."""
        self._awake.set()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Ask the thread to deliver what is left without pause, and to finish the tracker. Returns at once."""
        self._summary, self._retry_s = summary, FIRST_RETRY_S
        self._ending.set()
        self._awake.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, not longer than `seconds`."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Tell the thread to leave. Returns at once."""
        self._closed.set()
        self._ending.set()
        self._awake.set()

    def _run(self) -> None:
        try:
            self._begin()
            self._follow()
            self._call("finish", lambda: self._tracker.finish(self._summary))
            self.mark.finished = digest(self._summary)
            self.mark.save()
            self.outages.caught_up()
            self.done = True
        except _ClosedError:
            _log.debug("delivery to %s was closed", self.name)

    def _begin(self) -> None:
        self.mark.ids = self._call("start", self._start)
        held = self._call("held", self._tracker.held)
        if held is not None:
            self.mark.step = held or -1
        self.mark.finished = ""
        self.mark.save()
        self._events.skip(self.mark.events)
        self._paced_at, self._cpu_s = monotonic(), thread_time()

    def _start(self) -> dict[str, str]:
        ids = self._tracker.start(self._facts, dict(self.mark.ids)) or {}
        return {str(name): str(value) for name, value in ids.items()}

    def _follow(self) -> None:
        """Deliver until the run is over and everything has been sent, news of outages included."""
        while True:
            ending = self._ending.is_set()
            self._deliver()
            self.outages.caught_up()
            if ending and not self.outages.pending:
                return
            self._awake.wait()
            self._awake.clear()
            self._leave_if_closed()

    def _deliver(self) -> None:
        for row in self._due_rows():
            self._call("log", partial(self._log, row))
            self.mark.step = int(row["step"])
            self.rows_sent += 1
            self._note_down()
        for event in self._events.rows():
            if not self.mark.was_sent(event):
                self._call("event", partial(self._tracker.event, event))
                self.events_sent += 1
            self.mark.events = self._events.position
            self._note_down()
        if self._unsaved:
            self._save()

    def _due_rows(self) -> Iterator[Row]:
        for row in self._metrics.rows():
            self._pace()
            if step_of(row) > self.mark.step:
                try:
                    kept, _ = checked(row)
                except InputError as error:
                    _log.warning("a row of metrics.jsonl that no tracker can take is left out: %s", error.message)
                    continue
                if kept:
                    yield kept

    def _log(self, row: Row) -> None:
        """Hand a row over, unless an earlier try, whose answer was lost, did."""
        if self._retrying:
            held = self._tracker.held()
            if held is not None and held >= row["step"]:
                return
        self._tracker.log(row)

    def _call(self, during: str, function: Callable[[], _Result]) -> _Result:
        """Call the tracker until it returns."""
        while True:
            self._leave_if_closed()
            self.outages.calling(during)
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - SystemExit, too, is this tracker's failure, and told as such
                self.outages.raised(error)
                self._retrying = True
            else:
                self.outages.returned()
                self._leave_if_closed()
                self._retrying, self._retry_s = False, FIRST_RETRY_S
                return result
            self._nap(self._retry_s * self._jitter.uniform(0.5, 1.0))
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    def _note_down(self) -> None:
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        self.mark.save()
        self._unsaved = 0

    def _pace(self) -> None:
        """Sleep as long as the CPU time spent since the last call asks for; not at all once the run is over."""
        now, cpu_s = monotonic(), thread_time()
        self._free_at = max(self._free_at, self._paced_at) + (cpu_s - self._cpu_s) / DUTY
        self._paced_at, self._cpu_s = now, cpu_s
        if self._free_at - now >= NAP_S:
            self._ending.wait(min(self._free_at - now, LONGEST_NAP_S))

    def _nap(self, seconds: float) -> None:
        """Sleep; the end of the run cuts it short, once, and `close` always."""
        (self._closed if self._ending.is_set() else self._ending).wait(seconds)

    def _leave_if_closed(self) -> None:
        if self._closed.is_set():
            raise _ClosedError


class _ClosedError(Exception):
    """The thread is to leave."""
