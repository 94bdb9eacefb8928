"""What `doctor ranges` shows of ranges.json: a table, two heat maps, and what to do, as the flags of `train`."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ampguard.cli import heatmap
from ampguard.cli.range_rows import Line, Side, lines

WIDE = 100
"""From so many columns on, the table has room for the span of exponents, which the heat maps show anyway."""

NAME_SHARE = 0.28
"""Share of the terminal's width that a module's name may take."""

_SCALED = {"fp16": "% to 0\nat 2**16", "e4m3": "% to 0\nscaled", "e5m2": "% to 0\nscaled"}
"""Heading of the column with a scale; bf16 is used without."""

_WARN = "bold #e69f00"
"""Orange, as in the heat map."""


def show(console: Console, record: Mapping[str, Any], *, fold: bool) -> None:
    """Print a record.

    Args:
        console: Where; its width decides how the heat maps share their columns.
        record: As in ranges.json.
        fold: Whether blocks that are alike become one line.
    """
    best = record["recommendation"]
    found = lines(record["rows"], best["format"], fold=fold)
    console.print(table(record, found, console.width))
    for text in (*_maps(found, best, console.width), *_remarks(record)):
        console.print(text, no_wrap=text.no_wrap, overflow="crop" if text.no_wrap else None)
    for text, indent in advice(record):
        # A flag is there to be copied: it is never broken by a line's end.
        console.print(text if text.no_wrap else Padding(text, (0, 0, 0, indent)), soft_wrap=bool(text.no_wrap))


def table(record: Mapping[str, Any], found: Sequence[Line], width: int) -> Table:
    """Return the lines as a table; shares of what leaves the format's range stand out."""
    best, steps = record["recommendation"], record["steps"]
    measured = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps"
    title = f"{record['task']} on {record['device']}: {measured} in {record['precision']}, judged for {best['format']}"
    grid = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    grid.pad_edge, grid.padding = False, (0, 1, 0, 0)
    grid.add_column("\nmodule", no_wrap=True)
    scaled = _SCALED.get(best["format"])
    span = ["\n2**"] if width >= WIDE else []
    # A loss scale is for gradients; the scales of the eight-bit formats are for every tensor.
    both = scaled is not None and best["format"] != "fp16"
    values = ["values\nmax", *span, "\n% over", "\n% to 0", *([scaled] if scaled and both else [])]
    gradients = ["gradients\nmax", *span, "\n% to 0", *([scaled] if scaled else [])]
    for heading in (*values, *gradients):
        grid.add_column(heading, justify="right", no_wrap=True)
    room, allowed = max(12, int(width * NAME_SHARE)), best["flushed_allowed_pct"]
    for line in found:
        left = _cells(line.values, allowed, span=bool(span), over=True, scaled=both)
        right = _cells(line.gradients, allowed, span=bool(span), over=False, scaled=scaled is not None)
        grid.add_row(escape(shortened(line.name, room)), *left, *right)
    return grid


def _cells(side: Side | None, allowed: float, *, span: bool, over: bool, scaled: bool) -> list[Text]:
    if side is None:
        return [Text("-", "dim")] * (2 + span + over + scaled)
    cells = [Text("0" if side.max_abs is None else f"{side.max_abs:.2g}")]
    if span:
        cells.append(Text(f"{min(side.counts)}..{max(side.counts)}" if side.counts else "-"))
    if over:
        cells.append(_share(side.overflow_pct, 0.0))
    # Where a format is used with a scale, what would happen without one is no warning.
    cells.append(_share(side.underflow_pct, allowed if side.scaled_pct is None else 100.0))
    if scaled:
        cells.append(_share(side.scaled_pct, allowed))
    return cells


def _share(share_pct: float | None, allowed: float) -> Text:
    if share_pct is None:
        return Text("-", "dim")
    text = "0" if share_pct == 0 else "<0.01" if share_pct < 0.01 else f"{share_pct:.3g}"
    return Text(text, _WARN if share_pct > allowed else "dim" if share_pct == 0 else "")


def shortened(name: str, room: int) -> str:
    """Return a name's end where there is no room for all of it: the end tells modules apart."""
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _maps(found: Sequence[Line], best: Mapping[str, Any], width: int) -> Iterator[Text]:
    values = [(line.name, line.values.counts) for line in found if line.values is not None]
    gradients = [(line.name, line.gradients.counts) for line in found if line.gradients is not None]
    for title, rows in (("values", values), ("gradients, without a loss scale", gradients)):
        yield from _map(title, rows, best, width)
    if values or gradients:
        yield Text(f"{heatmap.legend()} | is where {best['format']} begins and ends.", "dim")


def _map(
    title: str, rows: Sequence[tuple[str, Mapping[int, int]]], best: Mapping[str, Any], width: int
) -> Iterator[Text]:
    room = min(max(12, int(width * NAME_SHARE)), max((len(name) for name, _ in rows), default=0))
    lowest, highest = best["exponents"]
    axis = heatmap.make_axis([counts for _, counts in rows], lowest=lowest, highest=highest, width=width - room - 1)
    if axis is None:
        return
    shared = f", {axis.per_column} exponents a column" if axis.per_column > 1 else ""
    yield Text(f"Base-2 exponents of {title}{shared}", "bold", no_wrap=True)
    for name, counts in rows:
        line = Text(f"{shortened(name, room):{room}} ", no_wrap=True)
        yield line.append_text(heatmap.draw(counts, axis))
    yield Text(" " * (room + 1), no_wrap=True).append_text(heatmap.ruler(axis))
    yield Text("", no_wrap=True)


def _remarks(record: Mapping[str, Any]) -> Iterator[Text]:
    for row in record["rows"]:
        if row["nonfinite_pct"] > 0:
            name = row["fqn"] or "the model itself"
            yield Text(f"{name}: {row['nonfinite_pct']:.3g} % of its {row['kind']} values are inf or NaN.", _WARN)
    for note in record["notes"]:
        yield Text(f"Note: {note}", "yellow")


def advice(record: Mapping[str, Any]) -> Iterator[tuple[Text, int]]:
    """Return what to do, each line with its indent: the summary, overrides as flags with reasons, the loss scale."""
    best = record["recommendation"]
    yield Text(_sentence(best["summary"]), "bold"), 0
    for glob, precision in best["overrides"].items():
        flag = shlex.quote(f"{glob}={precision}")
        yield Text.assemble("  --override ", (flag, "bold"), no_wrap=True), 0
        yield Text(best["reasons"][glob], "dim"), 6
    yield from _about_scale(best)


def _about_scale(best: Mapping[str, Any]) -> Iterator[tuple[Text, int]]:
    scales = best["loss_scale"] or {}
    largest, needed = scales.get("largest"), scales.get("needed")
    if largest is None and needed is None:
        return
    kept = f"keeps {100 - best['flushed_allowed_pct']:g} % of each module's gradients from becoming 0"
    enough = f"no loss scale up to 2**24 {kept}" if needed is None else f"a loss scale of {needed:.0f} {kept}"
    none_over = "with every one a gradient overflows" if largest is None else f"up to {largest:.0f} none overflows"
    where = "with these overrides, " if best["overrides"] else ""
    yield Text(_sentence(f"{where}{enough}; {none_over}.")), 0


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
