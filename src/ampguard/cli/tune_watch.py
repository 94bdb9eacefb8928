"""How a search shows while it runs: a line for each trial that ends, and on a terminal what runs, below."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ampguard.cli.streams import stderr
from ampguard.tuning.watch import Opening, Watch

if TYPE_CHECKING:
    from ampguard.tuning.report import TrialRecord


def make_watch(*, quiet: bool) -> Watch:
    """Return the watch that suits stderr."""
    return Watch() if quiet else TuneWatch(stderr())


@dataclass(kw_only=True)
class _Running:
    params: Mapping[str, Any]
    began: float = field(default_factory=perf_counter)
    validation: int = 0
    value: float | None = None


class TuneWatch(Watch):
    """A line for each trial that ends; on a terminal a table of those that run, the best so far, and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._line = self._bar.add_task("trials", total=None, left="")
        self._opening: Opening | None = None
        self._best: TrialRecord | None = None
        self._running: dict[int, _Running] = {}
        self._first: float | None = None
        """When the first trial of this part began."""
        self._ended = 0
        self._live = Live(console=console, transient=True, get_renderable=self._shown)

    def start(self, opening: Opening) -> None:  # noqa: D102
        self._opening = opening
        config = opening.config
        processes = "1 worker" if config.workers == 1 else f"{config.workers} workers"
        self._tell(f"{opening.task}: {config.trials} trials, {config.precision}, {processes}; study {opening.folder}")
        self._tell(f"searched: {', '.join(config.space)}")
        for warning in opening.warnings:
            self._tell(warning, style="yellow")
        for record in opening.before:
            self._keep(record)
        self._bar.update(self._line, total=config.trials, completed=len(opening.before))
        if self._console.is_terminal:
            self._live.start()

    def began(self, number: int, params: Mapping[str, Any]) -> None:  # noqa: D102
        self._running[number] = _Running(params=params)
        self._first = self._first or perf_counter()

    def validated(self, number: int, validation: int, value: float) -> None:  # noqa: D102
        if number in self._running:
            self._running[number].validation, self._running[number].value = validation, value

    def ended(self, record: "TrialRecord") -> None:  # noqa: D102
        self._running.pop(record.number, None)
        is_best = self._keep(record)
        self._ended += 1
        self._bar.update(self._line, advance=1)
        value = "" if record.value is None else f" {record.value:.5g}"
        why = f" ({record.reason})" if record.reason else ""
        mark = "default, " if record.is_default else ""
        self._tell(
            f"trial {record.number}: {mark}{record.state}{value}{why}; {_words(record.params)}",
            style="green" if is_best else "",
        )

    def lost(self, number: int, because: str) -> None:  # noqa: D102
        self._running.pop(number, None)
        self._tell(f"trial {number}: {because}; it is run again", style="yellow")

    def stop(self) -> None:  # noqa: D102
        self._live.stop()

    def _tell(self, text: str, style: str = "") -> None:
        self._console.print(escape(text), style=style)

    def _keep(self, record: "TrialRecord") -> bool:
        """Take a trial for the best so far, if it is; return that."""
        if not record.is_complete or record.value is None or self._opening is None:
            return False
        sign = 1.0 if self._opening.config.direction == "minimize" else -1.0
        if self._best is None or sign * record.value < sign * (self._best.value or 0.0):
            self._best = record
            return True
        return False

    def _shown(self) -> Group:
        grid = Table(box=None, pad_edge=False, show_edge=False)
        for name in ("running", "for", "validation", self._opening.config.metric if self._opening else ""):
            grid.add_column(name, justify="right", no_wrap=True)
        grid.add_column("parameters", overflow="ellipsis", no_wrap=True)
        total = self._opening.validations if self._opening else 0
        for number, trial in sorted(self._running.items()):
            value = "-" if trial.value is None else f"{trial.value:.5g}"
            seconds = f"{perf_counter() - trial.began:.0f} s"
            grid.add_row(str(number), seconds, f"{trial.validation}/{total}", value, escape(_words(trial.params)))
        best = "no trial is complete yet"
        if self._best is not None:
            best = f"best so far {self._best.value:.5g} (trial {self._best.number}); {_words(self._best.params)}"
        self._bar.update(self._line, left=self._left())
        return Group(grid, escape(best), self._bar)

    def _left(self) -> str:
        """Return the time left, at the pace of the trials that ended: a bar's own guess forgets the last minute."""
        if not self._ended or self._first is None or self._opening is None:
            return ""
        left = self._opening.config.trials - len(self._opening.before) - self._ended
        seconds = (perf_counter() - self._first) / self._ended * left
        return f"about {timedelta(seconds=round(seconds))} left" if left > 0 else ""


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
