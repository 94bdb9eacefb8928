"""What stands on the screen when a run is over: what it did, how well, where it lies, and what to do next."""

import shlex
from pathlib import Path

from rich.table import Table

from ampguard.records import RunRecord

BASELINE = "unigram_entropy_val"
"""Key in a Task's info: the loss of a model that knows only how frequent each byte is."""


def summary(record: RunRecord, command: str) -> Table:
    """Return the summary as a grid of name and value.

    Args:
        record: What came of the run.
        command: The command that trains its Task, without further options.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _lines(record, command):
        grid.add_row(name, value)
    return grid


def _lines(record: RunRecord, command: str) -> list[tuple[str, str]]:
    return [*record.lines(), *_report(record), *_baseline(record), ("next", _next(record, command))]


def _report(record: RunRecord) -> list[tuple[str, str]]:
    page = Path(record.run_dir) / "report.html"
    return [("report", str(page))] if page.exists() else []


def _baseline(record: RunRecord) -> list[tuple[str, str]]:
    baseline = record.info.get(BASELINE)
    if baseline is None or "val/loss" not in record.final:
        return []
    better = "below" if record.final["val/loss"] < baseline else "not below"
    return [("baseline", f"{better} the unigram entropy of the validation bytes, {baseline:.4f} nats/byte")]


def _next(record: RunRecord, command: str) -> str:
    if record.status not in ("finished", "stopped_early"):
        return f"ampguard train --resume {shlex.quote(record.run_dir)}"
    other = "fp32" if record.precision.granted != "fp32" else "bf16-mixed"
    return f"{command} --precision {other}   (this Task in {other}, to compare)"
