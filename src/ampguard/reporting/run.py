"""One run folder, read: what the report knows of a run, as plain numbers and texts."""

import fcntl
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ampguard.errors import RunFolderError
from ampguard.reporting.events import Timeline, Told, read_events
from ampguard.reporting.metrics import Metrics, finite, read_metrics
from ampguard.reporting.ranges import Ranges, read_ranges
from ampguard.reporting.thin import BUCKETS, Point
from ampguard.run_folder import read_record, read_run

log = logging.getLogger("ampguard.reporting")

SHARED_BUCKETS = 4 * BUCKETS
"""Buckets that the runs of one report share, so that a page of many runs stays small."""

MISSING = "unknown"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds."""

    path: Path
    label: str
    """Its name in the report, different from every other run's."""
    facts: Mapping[str, Any]
    """run.toml."""
    record: Mapping[str, Any]
    """run.json; empty where there is none."""
    status: str
    """As in run.json; "running" while a process holds the folder; "unfinished" without a result."""
    metrics: Metrics
    events: Timeline
    ranges: Ranges | None
    notes: tuple[str, ...]
    """What could not be read, in sentences."""

    @property
    def task(self) -> str:
        """The Task's name."""
        return str(table(self.facts.get("task")).get("name", MISSING))

    @property
    def device(self) -> str:
        """The device's label."""
        return str(self.facts.get("device", MISSING))

    @property
    def precision(self) -> Mapping[str, str]:
        """Texts by "requested", "granted" and "reason"; what run.toml lacks is "unknown"."""
        held = table(self.facts.get("precision"))
        return {name: str(held.get(name, MISSING)) for name in ("requested", "granted", "reason")}

    @property
    def granted(self) -> str:
        """The precision that the run began with, and the one that it ended in where it fell back."""
        first = self.precision["granted"]
        last = str(table(self.record.get("precision")).get("granted", first))
        return first if last == first else f"{first}, then {last}"

    @property
    def precision_told(self) -> str:
        """What was asked for and granted, why, and what fell back on the way, in words."""
        held = self.precision
        told = f"asked for {held['requested']}, granted {held['granted']}: {held['reason']}."
        changes = [_change(event) for event in self.events.listed if event.kind == "fallback"]
        return " ".join([told, *(f"After step {step} {what} went to {to}." for step, what, to in changes)])

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved options."""
        return table(self.facts.get("config"))

    @property
    def versions(self) -> Mapping[str, Any]:
        """What the run was made with."""
        return table(self.facts.get("versions"))

    @property
    def wall_s(self) -> float | None:
        """Seconds that the run took; None where it left no result."""
        return finite(self.record.get("wall_s"))

    @property
    def samples_per_s(self) -> float | None:
        """Over the whole run by its result, else by the last row."""
        whole = finite(self.record.get("samples_per_s"))
        return self.metrics.last.get("throughput/samples_per_s") if whole is None else whole

    @property
    def peak_mib(self) -> float | None:
        """The highest peak of memory that a row has."""
        curve = self.metrics.curves.get("memory/peak_allocated_mib")
        return curve.whole.high[1] if curve else None

    def steps(self, name: str) -> int | None:
        """Return the "attempted", "applied" or "skipped" steps: by the result, else by the last row."""
        counted = finite(table(self.record.get("steps")).get(name))
        if counted is None or self.status in ("running", "unfinished"):
            last = self.metrics.last
            by_row = {"applied": last.get("amp/applied_steps"), "skipped": last.get("amp/skipped_steps")}
            counted = by_row.get(name) if name in by_row else self.metrics.last_step
        return None if counted is None else int(counted)

    def final(self, key: str) -> float | None:
        """Return the last value of a metric."""
        return self.metrics.last.get(key)

    def lowest(self, key: str) -> Point | None:
        """Return the step and value where a metric was lowest."""
        curve = self.metrics.curves.get(key)
        return curve.whole.low if curve else None


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """Read run folders, each once, with labels that differ; what is left out of a file is told by one WARNING.

    Raises:
        RunFolderError: One is no run folder, cannot be read, or has a newer schema.
    """
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path)
    folders = list(unique)
    buckets, labels = buckets_for(len(folders)), make_labels(folders)
    return [_read_run(path, label, buckets) for path, label in zip(folders, labels, strict=True)]


def buckets_for(runs: int) -> int:
    """Return how many buckets each curve of a report of so many runs has."""
    return max(20, min(BUCKETS, SHARED_BUCKETS // max(1, runs)))


def make_labels(paths: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, with as many parents as it takes to differ from the others."""
    depths = [1] * len(paths)
    while True:
        labels = ["/".join(path.parts[-depth:]) or str(path) for path, depth in zip(paths, depths, strict=True)]
        unclear = [n for n, label in enumerate(labels) if labels.count(label) > 1 and depths[n] < len(paths[n].parts)]
        if not unclear:
            return labels
        for n in unclear:
            depths[n] += 1


def _read_run(path: Path, label: str, buckets: int) -> Run:
    facts = read_run(path)
    record, notes = read_record(path), []
    if record is None and (path / "run.json").exists():
        notes.append("run.json is damaged; the result is taken from the rows.")
    try:
        metrics = read_metrics(path / "metrics.jsonl", buckets=buckets)
        events = read_events(path / "events.jsonl")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error
    ranges, said = read_ranges(path / "ranges.json")
    notes += [*metrics.notes(), *events.notes(expected=metrics.last.get("amp/skipped_steps", 0) > 0), *said]
    for note in notes:
        log.warning("%s: %s", path, note)
    return Run(
        path=path,
        label=label,
        facts=facts,
        record=record or {},
        status=_status(path, record or {}),
        metrics=metrics,
        events=events,
        ranges=ranges,
        notes=tuple(notes),
    )


def _change(fallback: Told) -> tuple[int, str, str]:
    """Return after which step, what went, and to which precision."""
    modules = fallback.data.get("modules")
    what = ", ".join(map(str, modules)) if isinstance(modules, list) and modules else "the run"
    return fallback.step, what, str(fallback.data.get("to", "another precision"))


def _status(path: Path, record: Mapping[str, Any]) -> str:
    """Return how the run stands; a resumed run that goes on has the result of its earlier part."""
    if _is_held(path / ".lock"):
        return "running"
    return str(record.get("status", "unfinished"))


def _is_held(lock: Path) -> bool:
    """Return whether a process holds a run folder's lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # No lock, or a file system without locks: nobody is known to hold it.
        return False
    return False


def table(value: Any) -> Mapping[str, Any]:
    """Return a mapping, an empty one in place of anything else: run.toml is a file that people edit."""
    return value if isinstance(value, Mapping) else {}
