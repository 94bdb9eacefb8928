"""The terminal's view of a subject: one table a precision, then what was judged."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from loops import OURS
from targets import label
from timing import PRECISIONS


def tables_of(name: str, found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of one subject's record."""
    for precision in PRECISIONS:
        yield _times(f"{name}, {precision}: {found['what']}; {found['threads']} thread(s)", found, precision)
    yield _verdicts(f"{name}: agreement and targets", found)


def _times(title: str, found: dict[str, Any], precision: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("loop", "ms", "it / plain", *(f"{ours} / it" for ours in OURS)):
        table.add_column(column, justify="left" if column == "loop" else "right")
    for loop in found["loops"]:
        it = (loop, precision)
        pairs = [(it, ("plain", precision)), *(((ours, precision), it) for ours in OURS)]
        ratios = [found["ratios"].get(label(pair)) for pair in pairs]
        table.add_row(loop, f"{found['step_ms'][' '.join(it)]:.3f}", *map(_ratio, ratios))
    return table


def _ratio(record: dict[str, Any] | None) -> str:
    """Return a ratio with its interval; nothing for one that was not taken, as of a row and itself."""
    return f"{record['median']:.2f} [{record['ci95'][0]:.2f}, {record['ci95'][1]:.2f}]" if record else ""


def _verdicts(title: str, found: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("what", "value", "limit", ""):
        table.add_column(column)
    for precision, agreed in found["agreement"].items():
        worst = max(agreed["difference"].values(), default=0.0)
        text = f"weights of all, {precision}, in {' and '.join(sorted(set(agreed['dtype'].values())))}"
        table.add_row(text, f"{worst:.1e}", f"<= {agreed['bound']:.1e}", _mark(agreed["agree"]))
    table.add_section()
    for target in found["targets"]:
        text = f"{target['kind']}: {target['ratio']}, {target['statistic']}"
        table.add_row(text, f"{target['value']:.3f}", target["limit"], _mark(target["met"]))
    return table


def _mark(fine: bool) -> str:
    return "[green]met[/]" if fine else "[red]missed[/]"
