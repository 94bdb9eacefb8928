"""A search's result as tables for people."""

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ampguard.tuning.report import TrialRecord, TuneReport

BEST, FAILED = 7, 3
"""Trials in the table: the best, the default, and the last that failed; study.json has all."""

_BAR = 30


def trials_table(report: "TuneReport") -> Table:
    """Return some trials, the best first, the default marked."""
    counts = ", ".join(f"{count} {state}" for state, count in report.counts().items() if count)
    names = list(dict.fromkeys(name for trial in report.trials for name in trial.params))
    grid = Table(
        title=f"{report.task}: {report.metric}, {report.direction}d; {counts or 'no trial'}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    grid.add_column("trial", justify="right")
    grid.add_column(report.metric, justify="right")
    for name in names:
        grid.add_column(name, justify="right")
    grid.add_column("how it ended", overflow="fold")
    for trial in _chosen(report):
        style = "bold green" if report.best is not None and trial.number == report.best.number else ""
        grid.add_row(*_cells(trial, names), style=style)
    return grid


def _chosen(report: "TuneReport") -> list["TrialRecord"]:
    """Return the best trials, best first, then the default, then the last that failed."""
    sign = 1.0 if report.direction == "minimize" else -1.0
    complete = [trial for trial in report.trials if trial.is_complete]
    complete.sort(key=lambda trial: (sign * (trial.value or 0.0), not trial.is_default, trial.number))
    default = [trial for trial in report.trials if trial.is_default]
    failed = [trial for trial in report.trials if trial.state == "failed"]
    chosen = {trial.number: trial for trial in [*complete[:BEST], *default, *failed[-FAILED:]]}
    return list(chosen.values())


def _cells(trial: "TrialRecord", names: list[str]) -> list[str]:
    ended = trial.state if not trial.reason else f"{trial.state}: {trial.reason}"
    ended = f"default, {ended}" if trial.is_default else ended
    value = "-" if trial.value is None else f"{trial.value:.5g}"
    return [str(trial.number), value, *(_short(trial.params.get(name)) for name in names), escape(ended)]


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def importance_table(report: "TuneReport") -> Table | Text:
    """Return a bar for each parameter, or the reason why importance is not known."""
    found = report.importance
    if found.values is None:
        return Text(f"importance ({found.method}): not known, {found.reason}", style="yellow")
    grid = Table(title=f"importance ({found.method})", title_justify="left", box=None, show_header=False)
    if found.reason:
        grid.caption = found.reason
    for name, share in sorted(found.values.items(), key=lambda item: -item[1]):
        grid.add_row(name, f"{share:.0%}", "█" * max(1, round(share * _BAR)))
    return grid
