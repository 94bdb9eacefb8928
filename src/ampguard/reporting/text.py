"""A report on a terminal: figures in a table, curves as one line of blocks each, events by kind."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ampguard.reporting import tables
from ampguard.reporting.axes import Log
from ampguard.reporting.charts import Chart, Line, make_charts
from ampguard.reporting.run import Run
from ampguard.reporting.words import NONE, number

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 48
"""Columns of a line of blocks."""


def print_text(runs: Sequence[Run], console: Console) -> None:
    """Print a report."""
    console.print(_side_by_side(runs))
    for part in (_curves(runs), _events(runs), _differences(runs)):
        if part is not None:
            console.print()
            console.print(part)
    for run in runs:
        console.print()
        console.print(Text(f"{run.label}: precision {run.precision_told}", style="dim"))
        for note in run.notes:
            console.print(Text(f"{run.label}: {note}", style="yellow"))


def sparkline(line: Line, *, log: bool, width: int = SPARK) -> str:
    """Return a curve as blocks, each the mean of the points in its range of steps; a space where there is none."""
    first, last = line.whole.first[0], line.whole.last[0]
    low, high = line.whole.low[1], line.whole.high[1]
    axis = Log(low, high) if log and low > 0 else None
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in line.points:
        share = axis.share(value) if axis else _share(value, low, high)
        columns[min(width - 1, (step - first) * width // max(1, last - first + 1))].append(share)
    return "".join(_block(held) for held in columns)


def _block(shares: list[float]) -> str:
    if not shares:
        return " "
    mean = sum(shares) / len(shares)
    return BLOCKS[max(0, min(len(BLOCKS) - 1, int(mean * len(BLOCKS))))]


def _share(value: float, low: float, high: float) -> float:
    return (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0


def _grid(title: str, *headings: str) -> Table:
    grid = Table(title=title, title_justify="left", title_style="bold")
    for heading in headings:
        grid.add_column(Text(heading), overflow="fold")
    return grid


def _side_by_side(runs: Sequence[Run]) -> Table:
    grid = _grid("Report", "", *(run.label for run in runs))
    for row in tables.compared(runs):
        grid.add_row(Text(row.name), *map(Text, row.cells))
    return grid


def _differences(runs: Sequence[Run]) -> Table | None:
    rows = tables.differences(runs) if len(runs) > 1 else []
    if not rows:
        return None
    grid = _grid("What differs in the options", "", *(run.label for run in runs))
    for row in rows:
        grid.add_row(Text(row.name), *map(Text, row.cells))
    return grid


def _curves(runs: Sequence[Run]) -> Table | Text:
    charts = make_charts(runs)
    if not charts:
        return Text("No row of metrics yet: nothing was logged.")
    grid = _grid("Curves", "", "", "first", "last", "lowest", "highest")
    for chart, line in _lines(charts):
        ends = [number(point[1]) for point in line.whole.ends]
        name = line.key if len(runs) == 1 else f"{line.key} {line.name}"
        grid.add_row(Text(name), sparkline(line, log=chart.axis != "linear"), *ends)
    return grid


def _lines(charts: Sequence[Chart]) -> Iterator[tuple[Chart, Line]]:
    for chart in charts:
        for line in chart.lines:
            yield chart, line


def _events(runs: Sequence[Run]) -> Table | None:
    kinds = sorted({kind for run in runs for kind in run.events.counts})
    if not kinds:
        return None
    grid = _grid("Events", "", *(run.label for run in runs))
    for kind in kinds:
        grid.add_row(Text(kind), *(Text(_counted(run, kind)) for run in runs))
    return grid


def _counted(run: Run, kind: str) -> str:
    marks = run.events.marks_of(kind)
    if not marks:
        return NONE
    first, last = marks[0].first, marks[-1].last
    where = f"at step {first:,}" if first == last else f"from step {first:,} to {last:,}"
    return f"{run.events.counts[kind]:,} {where}"
