"""A whole run sent to trackers later: the same deliveries, with nobody training meanwhile.

What a tracker was sent already, by the run itself or an earlier replay, is not sent again: a replay that broke off
goes on where it stopped, and a second one has nothing to do.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from ampguard.errors import RunError
from ampguard.tracking._deliveries import POLL_S, Deliveries
from ampguard.tracking._delivery import Delivery
from ampguard.tracking._find import label
from ampguard.tracking._high_water import HighWater, counted
from ampguard.tracking._tail import ends_within_a_line

_log = logging.getLogger("ampguard.tracking")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a tracker was sent by one replay."""

    tracker: str
    rows: int
    events: int
    where: Mapping[str, str]
    """What finds the run in the service: ids, "url" or "path"."""

    def __str__(self) -> str:
        count = counted(self.rows, self.events) if self.rows or self.events else "nothing new to deliver"
        return ", ".join([f"{self.tracker}: {count}", *(f"{name} {value}" for name, value in self.where.items())])


class ReplayProgress(ABC):
    """Shows how far a replay is."""

    @abstractmethod
    def sent(self, tracker: str, done: int, total: int) -> None:
        """Rows and events that the tracker was sent so far, of those that were due."""


def replay(
    names: Sequence[str],
    run_dir: Path,
    *,
    facts: Mapping[str, Any],
    summary: Mapping[str, Any],
    timeout_s: float,
    progress: ReplayProgress,
) -> list[Sent]:
    """Send a run that is over to trackers, and return what each was sent.

    Args:
        names: The trackers.
        run_dir: The run folder, which this process has locked.
        facts: As `described` returns them.
        summary: The RunRecord as a dict; empty, if the run left none.
        timeout_s: How long nothing may be delivered before it gives up.
        progress: Shows it.

    Raises:
        ConfigError: There is no such tracker.
        MissingExtraError: Its package is not installed.
        RunError: A tracker failed, or did not answer. What it was sent until then is noted.
    """
    for file in ("metrics.jsonl", "events.jsonl"):
        if ends_within_a_line(run_dir / file):
            _log.warning("%s ends within a line, torn by a kill: that line is left out.", run_dir / file)
    marks = {name: HighWater.of(run_dir, label(name)) for name in names}
    due = {name: sum(mark.due(run_dir)) for name, mark in marks.items()}
    wanted = tuple(name for name, mark in marks.items() if due[name] or not mark.is_finished(summary))
    deliveries = Deliveries(wanted, run_dir)
    for news in deliveries.news():
        raise RunError(f"{news.message}.", hint="Mend it, and run the same command again.")
    deliveries.start(facts)
    try:
        _wait(deliveries, summary, due, timeout_s, progress)
    finally:
        deliveries.close()
    done = {member.name: _sent(member) for member in deliveries}
    return [done.get(name) or Sent(tracker=name, rows=0, events=0, where=marks[name].ids) for name in names]


def _wait(
    deliveries: Deliveries,
    summary: Mapping[str, Any],
    due: Mapping[str, int],
    timeout_s: float,
    progress: ReplayProgress,
) -> None:
    """Wait for all trackers, as long as anything moves."""
    for member in deliveries:
        member.finish(summary)
    last, moved_at = -1, monotonic()
    while left := [member for member in deliveries if member.alive]:
        for news in deliveries.news():
            _log.warning("%s.", news.message)
        for member in deliveries:
            member.wake()
            progress.sent(member.name, member.rows_sent + member.events_sent, due[member.name])
        moved = sum(member.rows_sent + member.events_sent for member in deliveries) - len(left)
        if moved != last:
            last, moved_at = moved, monotonic()
        if monotonic() - moved_at > timeout_s:
            raise _failure(left, timeout_s)
        sleep(POLL_S)
    if lost := [member for member in deliveries if not member.done]:
        raise _failure(lost, timeout_s)
    for member in deliveries:
        progress.sent(member.name, due[member.name], due[member.name])


def _failure(members: Sequence[Delivery], timeout_s: float) -> RunError:
    parts = [f"tracker {m.name}: {m.outages.cause or 'no answer'}" for m in members]
    return RunError(
        f"{'; '.join(parts)}. Nothing was delivered for {timeout_s:g} s.",
        hint="Run the same command again: it goes on where this one stopped.",
    )


def _sent(member: Delivery) -> Sent:
    return Sent(tracker=member.name, rows=member.rows_sent, events=member.events_sent, where=member.mark.ids)
