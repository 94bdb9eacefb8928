"""What a run comes to in figures, and what its options were: rows of texts, one cell a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ampguard.reporting.run import Run, table
from ampguard.reporting.words import NONE, count, duration, number

_APART = ("schema", "precision", "versions", "device")
"""Parts of run.toml that stand elsewhere on the page."""

_OWN = ("out", "resume")
"""Options that differ in any two runs."""


@dataclass(frozen=True)
class Row:
    """One row of a table: a name and a cell for each run."""

    name: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it."""
        return len(set(self.cells)) > 1


def key_figures(run: Run) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of what matters first; what the run does not have is left out."""
    found = [
        ("validation loss", run.final("val/loss"), _best(run)),
        ("training loss", run.final("train/loss"), "last logged step"),
    ]
    figures = [(name, number(value), note) for name, value, note in found if value is not None]
    figures += [("steps", number(run.steps("attempted")), _steps(run))] if run.steps("attempted") is not None else []
    scale = run.final("amp/loss_scale")
    others = [
        ("samples/s", number(run.samples_per_s), "", run.samples_per_s),
        ("time", duration(run.wall_s), "earlier parts included" if run.record.get("resumed_from") else "", run.wall_s),
        ("peak memory", f"{number(run.peak_mib)} MiB", "allocated on the device", run.peak_mib),
        ("loss scale", number(scale), "at the end", scale),
    ]
    return figures + [(name, text, note) for name, text, note, value in others if value is not None]


def _best(run: Run) -> str:
    best = run.lowest("val/loss")
    return f"best {number(best[1])} at step {best[0]:,}" if best is not None else ""


def _steps(run: Run) -> str:
    applied, skipped = run.steps("applied"), run.steps("skipped")
    parts = [] if applied is None else [f"{applied:,} applied"]
    parts += [] if skipped is None else [f"{skipped:,} skipped"]
    return ", ".join(parts)


def compared(runs: Sequence[Run]) -> list[Row]:
    """Return the runs side by side: one row a figure, those that no run has left out."""
    wanted = {
        "status": [run.status.replace("_", " ") for run in runs],
        "task": [run.task for run in runs],
        "precision": [run.granted for run in runs],
        "precision asked for": [run.precision["requested"] for run in runs],
        "device": [run.device for run in runs],
        "steps": [number(run.steps("attempted")) for run in runs],
        "applied steps": [number(run.steps("applied")) for run in runs],
        "skipped steps": [number(run.steps("skipped")) for run in runs],
        "train/loss": [number(run.final("train/loss")) for run in runs],
        "val/loss": [number(run.final("val/loss")) for run in runs],
        "best val/loss": [number(best[1]) if (best := run.lowest("val/loss")) else NONE for run in runs],
        **{key: [number(run.final(key)) for run in runs] for key in _own_metrics(runs)},
        "samples/s": [number(run.samples_per_s) for run in runs],
        "time": [duration(run.wall_s) for run in runs],
        "peak memory MiB": [number(run.peak_mib) for run in runs],
        "fallbacks": [number(run.events.counts["fallback"]) for run in runs],
        "tracker outages": [number(run.events.counts["tracker_outage"]) for run in runs],
    }
    rows = [Row(name, tuple(cells)) for name, cells in wanted.items()]
    return [row for row in rows if set(row.cells) - {NONE} and not _never(row)]


def _never(row: Row) -> bool:
    return row.name in ("fallbacks", "tracker outages") and set(row.cells) == {"0"}


def _own_metrics(runs: Sequence[Run]) -> list[str]:
    keys = {key for run in runs for key in run.metrics.curves if key.startswith("val/")}
    return sorted(keys - {"val/loss"})


def options(runs: Sequence[Run]) -> list[Row]:
    """Return the Task's options, the config and the versions of the runs; what differs comes first."""
    tables = [dict(_flat(_told(run))) for run in runs]
    names = list(dict.fromkeys(name for held in tables for name in held))
    rows = [Row(name, tuple(held.get(name, NONE) for held in tables)) for name in names]
    return sorted(rows, key=lambda row: not (row.differs and row.name not in _OWN))


def versions(runs: Sequence[Run]) -> list[Row]:
    """Return what the runs were made with."""
    names = list(dict.fromkeys(name for run in runs for name in run.versions))
    return [Row(str(name), tuple(str(run.versions.get(name, NONE)) for run in runs)) for name in names]


def differences(runs: Sequence[Run]) -> list[Row]:
    """Return the options in which the runs differ, without those that any two differ in."""
    return [row for row in options(runs) if row.differs and row.name not in _OWN]


def _told(run: Run) -> dict[str, Any]:
    """Return the Task's and the run's own options, named as on the command line."""
    task = dict(table(run.facts.get("task")))
    task |= table(task.pop("options", None))
    rest = {key: value for key, value in run.facts.items() if key not in (*_APART, "task", "config")}
    return {**run.config, "task": task, **rest}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, held in value.items():
        if isinstance(held, Mapping):
            yield from _flat(held, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(held)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def unlisted(run: Run) -> str:
    """Return how many events are counted and not listed, in words; "" if none."""
    parts = [f"{count(number_of, kind)}" for kind, number_of in run.events.unlisted.items()]
    return f"Not listed, but counted: {', '.join(parts)}." if parts else ""
