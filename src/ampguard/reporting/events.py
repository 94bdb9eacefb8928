"""`events.jsonl` as a timeline: how often each kind happened, exactly; where; and the words of the first and last.

A run may leave a million skips. Counts are exact whatever their number; marks on charts are thinned into ranges of
steps that keep their count; of each kind the first and last few are listed.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ampguard.run_folder import parse_row

LISTED: Final = 20
"""Events of a kind that are listed from its start, and as many from its end."""

MARKS: Final = 400
"""Marks of a kind that a chart has at most."""

HELD: Final = 600
"""Characters of a message that are kept."""


@dataclass(frozen=True)
class Mark:
    """Events of one kind at a step, or within a range of steps."""

    first: int
    last: int
    count: int


@dataclass(frozen=True)
class Told:
    """One event in words."""

    kind: str
    step: int
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Marks:
    """Where events of one kind happened: ranges of steps with their counts."""

    def __init__(self, limit: int = MARKS) -> None:
        self._limit = limit
        self._width = 1
        self._marks: dict[int, Mark] = {}

    def add(self, step: int) -> None:
        """Take one event."""
        self._put(step // self._width, Mark(step, step, 1))
        while len(self._marks) > self._limit:
            narrow, self._marks = self._marks, {}
            self._width *= 2
            for index, mark in narrow.items():
                self._put(index // 2, mark)

    @property
    def all(self) -> list[Mark]:
        """The marks by step."""
        return [self._marks[index] for index in sorted(self._marks)]

    def _put(self, index: int, mark: Mark) -> None:
        held = self._marks.get(index)
        if held is not None:
            mark = Mark(min(held.first, mark.first), max(held.last, mark.last), held.count + mark.count)
        self._marks[index] = mark


class Timeline:
    """The events of a run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Events of each kind, exactly."""
        self.marks: dict[str, Marks] = {}
        self.exists = True
        """Whether there is a file."""
        self.torn = False
        self.damaged = 0
        self._first: dict[str, list[Told]] = {}
        self._last: dict[str, deque[Told]] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Take one row of events.jsonl."""
        kind, step = row.get("event"), row.get("step")
        if not isinstance(kind, str) or isinstance(step, bool) or not isinstance(step, int):
            self.damaged += 1
            return
        self.counts[kind] += 1
        self.marks.setdefault(kind, Marks()).add(step)
        data = {key: value for key, value in row.items() if key not in ("event", "step", "message")}
        told = Told(kind, step, str(row.get("message", ""))[:HELD], data)
        first = self._first.setdefault(kind, [])
        if len(first) < LISTED:
            first.append(told)
        else:
            self._last.setdefault(kind, deque(maxlen=LISTED)).append(told)

    @property
    def listed(self) -> list[Told]:
        """The events that are kept in words, by step; of equal steps in the order of their kinds."""
        kept = [*(told for group in self._first.values() for told in group)]
        kept += [told for group in self._last.values() for told in group]
        return sorted(kept, key=lambda told: told.step)

    @property
    def unlisted(self) -> dict[str, int]:
        """How many of each kind are counted and not listed."""
        kept = Counter(told.kind for told in self.listed)
        return {kind: count - kept[kind] for kind, count in self.counts.items() if count > kept[kind]}

    def marks_of(self, kind: str) -> list[Mark]:
        """Return where events of a kind happened; empty if none did."""
        return self.marks[kind].all if kind in self.marks else []

    def notes(self, *, expected: bool = True) -> list[str]:
        """Return what was left out, in words.

        Args:
            expected: Whether something happened for certain. Without an event a run writes no file.
        """
        found = (
            []
            if self.exists or not expected
            else ["There is no events.jsonl: what happened at which step is not known."]
        )
        if self.torn:
            found.append("events.jsonl ends within a line (torn by a kill, or being written): read up to it.")
        if self.damaged:
            found.append(f"events.jsonl: {self.damaged:,} line(s) without an event, left out.")
        return found


def read_events(path: Path) -> Timeline:
    """Return the events of an events.jsonl; a file that does not exist has none.

    Raises:
        OSError: The file cannot be read.
    """
    timeline = Timeline()
    timeline.exists = path.exists()
    if timeline.exists:
        with path.open("rb") as file:
            for line in file:
                _take_line(line, timeline)
    return timeline


def _take_line(line: bytes, timeline: Timeline) -> None:
    row = parse_row(line)
    if row is not None:
        timeline.take(row)
    elif line.endswith(b"\n"):
        timeline.damaged += 1
    else:
        timeline.torn = True
