"""What stands on the screen when a run is over: what it did, how well, where it lies, and what to do next."""

from rich.table import Table

from ampguard.records import RunRecord

BASELINE = "unigram_entropy_val"
"""Key in a Task's info: the loss of a model that knows only how frequent each byte is."""


def summary(record: RunRecord, target: str) -> Table:
    """Return the summary as a grid of name and value."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _lines(record, target):
        grid.add_row(name, value)
    return grid


def _lines(record: RunRecord, target: str) -> list[tuple[str, str]]:
    counts = record.steps
    lines = [
        ("run", f"{record.task}: {record.status.replace('_', ' ')} on {record.device}"),
        ("precision", f"{record.precision.granted} ({record.precision.reason})"),
        ("steps", f"{counts.attempted} attempted, {counts.applied} applied, {counts.skipped} skipped"),
        *_metrics(record),
        ("speed", _speed(record)),
        ("folder", record.run_dir),
        ("next", _next(record, target)),
    ]
    return [(name, value) for name, value in lines if value]


def _metrics(record: RunRecord) -> list[tuple[str, str]]:
    wanted = [("train/loss", record.final.get("train/loss"))]
    wanted += [(key, value) for key, value in record.final.items() if key.startswith("val/")]
    lines = [(key, f"{value:.4f}") for key, value in wanted if value is not None]
    baseline = record.info.get(BASELINE)
    if baseline is not None and "val/loss" in record.final:
        better = "below" if record.final["val/loss"] < baseline else "not below"
        lines.append(("baseline", f"{better} the unigram entropy of the validation bytes, {baseline:.4f} nats/byte"))
    return lines


def _speed(record: RunRecord) -> str:
    parts = [] if record.samples_per_s is None else [f"{record.samples_per_s:,.0f} samples/s"]
    tokens = record.final.get("throughput/tokens_per_s")
    parts += [] if tokens is None else [f"{tokens:,.0f} tokens/s"]
    return ", ".join([*parts, f"{record.wall_s:.1f} s in all"])


def _next(record: RunRecord, target: str) -> str:
    if record.status != "finished":
        return f"ampguard train --resume {record.run_dir}"
    other = "fp32" if record.precision.granted != "fp32" else "bf16-mixed"
    return f"ampguard train {target} --precision {other}   (the same in {other}, to compare)"
