"""A bench on a terminal, from its folder: the verdict, every figure, and the reasons."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ampguard.reporting.bench import tables
from ampguard.reporting.bench.read import Bench


def print_text(bench: Bench, console: Console) -> None:
    """Print the report of a bench."""
    console.print(_figures(bench))
    for part in (_reasons(bench), _changes(bench)):
        if part is not None:
            console.print()
            console.print(part)
    for caution in (*(f"Not met: {one}" for one in bench.unmet), *bench.warnings):
        console.print(Text(caution, style="yellow"), soft_wrap=True)
    console.print(Text(f"{bench.recommended}: {bench.why}", style="bold"), soft_wrap=True)


def _grid(title: str, *headings: str) -> Table:
    grid = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in headings:
        grid.add_column(Text(heading), overflow="fold")
    return grid


def _figures(bench: Bench) -> Table:
    grid = _grid(f"{bench.task} on {bench.device}", "", *(trial.precision for trial in bench.trials))
    for row in tables.every_figure(bench):
        grid.add_row(Text(row.name), *map(Text, row.cells))
    return grid


def _reasons(bench: Bench) -> Table | None:
    held = tables.reasons(bench)
    if not held:
        return None
    grid = _grid("What is missing, and why", "precision", "figure", "reason")
    for reason in held:
        grid.add_row(Text(", ".join(reason.precisions)), Text(", ".join(reason.figures)), Text(reason.why))
    return grid


def _changes(bench: Bench) -> Table | None:
    held = tables.changes(bench)
    if not held:
        return None
    grid = _grid(f"Against {bench.against.get('old', 'an older bench')}", "", *tables.CHANGE_NAMES)
    for row in held:
        grid.add_row(Text(row.name), *map(Text, row.cells))
    return grid
