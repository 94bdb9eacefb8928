"""The high-water mark: how much of a run a tracker has been sent, kept in the run folder.

One small file a tracker, `trackers/<name>.json`, written after each delivery: a process that goes on with
the run, and `ampguard track`, go on where the last one stood. Rows are remembered by their step, for a resumed run's
file is cut and written anew while steps stay what they are; events, which may share a step, by their number.
Deleting the file makes everything due again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ampguard.records import SCHEMA
from ampguard.tracking._rows import step_of
from ampguard.tracking._tail import Tail

_log = logging.getLogger("ampguard.tracking")
FOLDER = "trackers"
PAGE_BYTES = 4096


@dataclass
class HighWater:
    """How far a tracker got."""

    path: Path
    step: int = -1
    """Step of the last row that it was sent; rows after it are due."""
    events: int = 0
    """Events that it was sent, from the first on."""
    ids: dict[str, str] = field(default_factory=dict)
    """What its `start` returned."""
    again: list[str] = field(default_factory=list)
    """Digests of events that it was sent and that a resumed run will write again."""
    finished: str = ""
    """Digest of the summary that it was finished with; "" while it is not."""

    @classmethod
    def unsent(cls, run_dir: Path, label: str) -> "HighWater":
        """Return the mark of a tracker that was sent nothing."""
        return cls(run_dir / FOLDER / f"{label}.json")

    @classmethod
    def of(cls, run_dir: Path, label: str) -> "HighWater":
        """Return the mark of a tracker in a run folder: nothing sent, where there is none or a damaged one."""
        mark = cls.unsent(run_dir, label)
        try:
            kept = json.loads(mark.path.read_text(encoding="utf-8"))
            return cls(
                mark.path,
                step=int(kept["step"]),
                events=int(kept["events"]),
                ids=dict(kept["ids"]),
                again=list(kept["again"]),
                finished=str(kept["finished"]),
            )
        except FileNotFoundError:
            return mark
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is damaged (%s): what its service cannot tell it holds is sent again.", mark.path, error)
            return mark

    def save(self) -> None:
        """Write the mark down; on a disk that fails it stays in memory, and the next save tries again."""
        kept = {name: value for name, value in vars(self).items() if name != "path"}
        line = json.dumps({"schema": SCHEMA, **kept}).encode()
        try:
            if not self._overwrite(line):
                self._create(line)
        except OSError as error:
            # The disk of the run folder: its log tells of it, once, in a WARNING.
            _log.info("%s cannot be written: %s", self.path, error)

    def _overwrite(self, line: bytes) -> bool:
        """Write over the file if it can be done in one page, which a kill does not tear; say whether it was.

        A tenth of what replacing it costs, and no room on a full disk. What was longer before is filled up with blanks.
        """
        try:
            with self.path.open("r+b", buffering=0) as file:
                size = max(os.fstat(file.fileno()).st_size, len(line) + 1)
                return size <= PAGE_BYTES and file.write(line.ljust(size - 1) + b"\n") == size
        except FileNotFoundError:
            return False

    def _create(self, line: bytes) -> None:
        part = self.path.with_suffix(".part")
        self.path.parent.mkdir(exist_ok=True)
        part.write_bytes(line + b"\n")
        part.replace(self.path)

    def due(self, run_dir: Path) -> tuple[int, int]:
        """Return how many rows and events of the run the tracker was not sent."""
        metrics, events = Tail(run_dir / "metrics.jsonl"), Tail(run_dir / "events.jsonl")
        rows = sum(step_of(row) > self.step for row in metrics.rows())
        return rows, max(0, sum(1 for _ in events.rows()) - self.events)

    def was_sent(self, event: Mapping[str, Any]) -> bool:
        """Return whether an event was sent before the log was cut; each such answer is given once."""
        if (name := digest(event)) not in self.again:
            return False
        self.again.remove(name)
        return True

    def is_finished(self, summary: Mapping[str, Any]) -> bool:
        """Return whether the tracker was finished with this very summary."""
        return self.finished == digest(summary)


def digest(content: Mapping[str, Any]) -> str:
    """Return a short name of a summary or an event."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lower_marks(run_dir: Path, *, last_step: int) -> None:
    """Prepare all marks for a log that is about to be cut after `last_step`.

    Rows and events that a tracker holds past that step stay sent: the resumed run writes the same ones again. What it
    then writes for the first time is new.
    """
    for file in sorted((run_dir / FOLDER).glob("*.json")):
        mark = HighWater.of(run_dir, file.stem)
        sent = [row for row, _ in zip(Tail(run_dir / "events.jsonl").rows(), range(mark.events), strict=False)]
        cut = [row for row in sent if step_of(row) > last_step]
        mark.events -= len(cut)
        mark.again += map(digest, cut)
        mark.save()


def counted(rows: int, events: int) -> str:
    """Return both numbers in words: "6 rows, 1 event"."""
    return f"{rows} row{'s' * (rows != 1)}, {events} event{'s' * (events != 1)}"
