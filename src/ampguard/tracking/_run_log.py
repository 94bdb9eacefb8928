"""The log of a run: `metrics.jsonl` and `events.jsonl` in its folder, the source of truth.

The loop writes here, at once and by itself; trackers are sent what stands here (`_delivery.py`).

Files are append-only, one JSON object a line, handed to the operating system row by row: what was logged survives
a kill -9. Each row opens the file anew (tens of microseconds at the pace of `--log-every`), so that a folder that was
deleted, unmounted or filled up is noticed at once instead of written into the void.

A disk that fails is an outage, not an error: one WARNING, rows wait in memory (up to 10,000, then the oldest goes),
and the next row tries again; when the disk is back they are written in order, each once.

Not here: fsync of each row. `sync` does it, before a checkpoint is taken, so that no checkpoint outlives its rows.
"""

import json
import logging
import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ampguard.tracking._base import Row, checked
from ampguard.tracking._rows import cut_torn_line, keep_rows, sync_folder

_log = logging.getLogger("ampguard.tracking")

MAX_WAITING: Final = 10_000
"""Rows of one file that wait in memory during an outage: about 5 MB at 500 bytes a row."""


class RunLog:
    """Appends rows to `metrics.jsonl` and events to `events.jsonl` in a run folder that exists."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = _Lines(run_dir / "metrics.jsonl")
        self._events = _Lines(run_dir / "events.jsonl")

    @property
    def waiting(self) -> int:
        """Number of rows and events that wait for a disk that failed; 0 as a rule."""
        return self._metrics.waiting + self._events.waiting

    def log(self, row: Row) -> tuple[str, ...]:
        """Append one row and return the keys that were left out because their values are not finite.

        Raises:
            InputError: It has no integer step, or a key or a value that no tracker can take.
        """
        kept, left_out = checked(row)
        if kept:
            self._metrics.append(kept)
        return left_out

    def event(self, row: Mapping[str, Any]) -> None:
        """Append one event, as `Event.as_dict` returns it; what JSON lacks (inf, NaN, an object) becomes text."""
        self._events.append(_plain(row))

    def close(self) -> None:
        """Write what still waits, make it durable, and tell what could not be written."""
        self.sync()
        if self.waiting:
            _log.warning("%d row(s) could not be written and are lost with this process.", self.waiting)

    def sync(self) -> None:
        """Write what still waits and make both files durable (fsync)."""
        self._metrics.sync()
        self._events.sync()

    def truncate_after(self, step: int) -> None:
        """Drop rows and events of later steps than `step`, and a line torn by a kill, so that each step stands once.

        Raises:
            OSError: A file cannot be rewritten; it is as it was.
        """
        for lines in (self._metrics, self._events):
            keep_rows(lines.path, last_step=step)


class _Lines:
    """One append-only file of JSON objects that outlives the failures of its disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: deque[bytes] = deque()
        self._lost = 0
        self._mended = False
        self._out = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write what waits and then `row`, or let it wait."""
        self._queue.append(json.dumps(row, allow_nan=False).encode() + b"\n")
        if len(self._queue) > MAX_WAITING:
            self._queue.popleft()
            self._lost += 1
        self._attempt(durable=False)

    def sync(self) -> None:
        """Write what waits and fsync the file; nothing to do for a file that was never begun."""
        if self._mended or self._queue:
            self._attempt(durable=True)

    def _attempt(self, *, durable: bool) -> None:
        try:
            self._write(durable=durable)
        except OSError as error:
            self._mended = False
            if not self._out:
                _log.warning("%s cannot be written (%s); training goes on and later rows try again.", self.path, error)
            self._out = True
        else:
            self._tell_recovery()

    def _write(self, *, durable: bool) -> None:
        """Write the queue line by line; a line leaves the queue when the system has taken all of it."""
        with self.path.open("ab", buffering=0) as file:
            if not self._mended:
                cut_torn_line(self.path)
                self._mended = True
            while self._queue:
                line = self._queue[0]
                if file.write(line) != len(line):
                    raise OSError(f"only a part of a row fitted into {self.path.name}")
                self._queue.popleft()
            if durable:
                os.fsync(file.fileno())
                sync_folder(self.path.parent)

    def _tell_recovery(self) -> None:
        if self._out:
            _log.warning("%s can be written again; rows lost meanwhile: %d.", self.path, self._lost)
        self._out, self._lost = False, 0


def _plain(value: Any) -> Any:
    """Return `value` as plain JSON; an event speaks of inf and NaN, which JSON lacks, so they become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)
