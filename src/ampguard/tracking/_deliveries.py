"""The deliveries of a run to all its trackers: what the training loop sees of them.

The loop wakes the threads after a row and collects their news; both return at once. Only `finish` waits, for all
together and not longer than it is told. Warnings are logged by the caller's thread, when it collects the news.
"""

import logging
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from ampguard.errors import AmpguardError, ConfigError, RunFolderError
from ampguard.records import Event
from ampguard.tracking._base import Tracker
from ampguard.tracking._delivery import THREAD_PREFIX, Delivery
from ampguard.tracking._find import find_tracker, label
from ampguard.tracking._high_water import HighWater, counted
from ampguard.tracking._outages import News, in_a_line

_log = logging.getLogger("ampguard.tracking")

_wait_log = logging.getLogger("ampguard.tracking.wait")
"""Apart, for the command line shows its INFO: no fault, but a person who waits is told for what."""

TELL_WAIT_S = 2.0
"""What the wait at the end may take before it is told."""
POLL_S = 0.05
"""Between two looks at the threads while waiting for them."""


def stuck(wait_s: float = 0.0) -> bool:
    """Return whether a delivery is still inside a tracker's call, so that the process may not be able to end.

    Args:
        wait_s: What deliveries that were closed may take to leave.
    """
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]
    for thread in threads:
        thread.join(wait_s)
    return any(thread.is_alive() for thread in threads)


def described(run_dir: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tracker is told at its start: what run.toml holds, a name, tags, and the group, if there is one.

    Raises:
        RunFolderError: Something that each run.toml has is missing.
    """
    try:
        tags = [facts["task"]["name"], facts["precision"]["granted"], facts["device"]]
        group = facts.get("config", {}).get("group")
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{run_dir / 'run.toml'} is damaged: it lacks {error}.") from error
    told = {name: value for name, value in facts.items() if name != "schema"}
    return {**told, "name": run_dir.resolve().name, "tags": tags, **({"group": group} if group else {})}


class Deliveries:
    """All trackers of a run; without any, nothing happens and no thread starts.

    Args:
        names: What was asked for: members, or FILE.py:CLASS.
        run_dir: The run folder; nothing is written before `start`.

    Raises:
        ConfigError: There is no such tracker, or two have one name.
        MissingExtraError: Its package is not installed.
    """

    def __init__(self, names: tuple[str, ...], run_dir: Path) -> None:
        self._run_dir = run_dir
        self._members: list[Delivery] = []
        self._broken: dict[str, News] = {}
        self._untold: list[News] = []
        classes = {name: find_tracker(name) for name in names}
        if len(set(map(label, classes))) < len(classes):
            raise ConfigError(f"two trackers have one name: {', '.join(classes)}.", hint="Name a file or class anew.")
        for name, tracker in classes.items():
            self._make(name, tracker)

    def _make(self, name: str, tracker: type[Tracker]) -> None:
        try:
            self._members.append(Delivery(name, tracker(self._run_dir), self._run_dir))
        except AmpguardError:
            raise
        except Exception as error:  # noqa: BLE001 - a package that is installed and broken: training goes on without
            news = News("tracker_outage", name, f"it cannot be made: {in_a_line(error)}")
            self._broken[name] = news
            self._untold.append(news)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._members)

    def start(self, facts: Mapping[str, Any]) -> None:
        """Begin to deliver, now that the run folder is this process's own. facts: as `described` returns them."""
        for member in self._members:
            member.start(facts)

    def wake(self, step: int) -> list[Event]:
        """Say that rows were written, and return what happened to trackers since the last call. Sync: none.

        Args:
            step: What the events are noted at.

        Returns:
            Outages, which are warned of as well, and their ends.
        """
        found = self.news()
        for member in self._members:
            member.wake()
        for news in found:
            if news.kind == "tracker_outage":
                _log.warning("%s. Training goes on; rows wait in %s.", news.message, self._run_dir / "metrics.jsonl")
        return [news.event(step) for news in found]

    def news(self) -> list[News]:
        """Return what happened to trackers since the last call."""
        found, self._untold = self._untold, []
        for member in self._members:
            member.outages.look()
            found += member.outages.news()
        return found

    def finish(
        self,
        summary: Mapping[str, Any],
        *,
        step: int,
        timeout_s: float,
        tell: Callable[[Event], None],
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until everything has been delivered, or until the time is over; then say what is missing.

        Args:
            summary: The RunRecord as a dict.
            step: What news is noted at.
            timeout_s: For all trackers together.
            tell: Takes the events; what it writes to `events.jsonl` is delivered, too.
            hurried: Says whether somebody does not want to wait any longer.
        """
        began = monotonic()
        deadline, told = began + timeout_s, False
        for member in self._members:
            member.finish(summary)
        while True:
            alive = [member for member in self._members if member.alive]
            for event in self.wake(step):
                tell(event)
            if not alive or monotonic() >= deadline or hurried():
                break
            if not told and monotonic() - began >= TELL_WAIT_S:
                told = True
                self._tell_wait(alive, timeout_s)
            alive[0].join(min(POLL_S, max(0.0, deadline - monotonic())))
        self.close()
        self._tell_missing(monotonic() - began)

    def close(self) -> None:
        """Tell all threads to leave; what is in a call leaves after it."""
        for member in self._members:
            member.close()

    def _tell_wait(self, members: list[Delivery], timeout_s: float) -> None:
        parts = []
        for one in members:
            doing = one.outages.cause or (f"in {one.outages.during}" if one.outages.during else "at work")
            parts.append(f"{one.name} ({doing}; {_left(one.mark, self._run_dir)} to go)")
        _wait_log.info("waiting for %s; at most %g s, Ctrl-C ends it", ", ".join(parts), timeout_s)

    def _tell_missing(self, waited_s: float) -> None:
        lacking = {member.name: member.mark for member in self._members if not member.done}
        lacking |= {name: HighWater.of(self._run_dir, label(name)) for name in self._broken}
        if lacking:
            parts = ", ".join(f"{name} ({_left(mark, self._run_dir)})" for name, mark in lacking.items())
            to = [word for name in lacking for word in ("--to", name)]
            later = shlex.join(["ampguard", "track", str(self._run_dir), *to])
            _log.warning("not delivered within %.1f s: %s. Later: %s", waited_s, parts, later)


def _left(mark: HighWater, run_dir: Path) -> str:
    rows, events = mark.due(run_dir)
    return counted(rows, events) if rows or events else "only its end"
