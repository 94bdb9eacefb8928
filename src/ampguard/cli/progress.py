"""How a run shows: a live bar on a terminal, plain lines where the output is piped, nothing when asked to be quiet."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ampguard.cli.streams import stderr
from ampguard.records import Event
from ampguard.training.progress import TOLD, NullProgress, Outline, Progress, figures

PLAIN_ROWS = 20
"""Lines that a piped run prints at most, evenly over its rows; the file has them all."""


def make_progress(*, quiet: bool) -> Progress:
    """Return the progress that suits stderr."""
    if quiet:
        return NullProgress()
    console = stderr()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def _opening(outline: Outline) -> str:
    start = f" from step {outline.first_step}" if outline.first_step else ""
    return (
        f"{outline.task}: {outline.parameters:,} parameters on {outline.device}, {outline.steps} steps{start}\n"
        f"precision {outline.precision}\nrun folder {outline.run_dir}"
    )


class PlainProgress(Progress):
    """One line a row, at most PLAIN_ROWS of them and every validation."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 1
        self._next = 0.0

    def start(self, outline: Outline) -> None:  # noqa: D102
        self._steps = outline.steps
        self._next = float(outline.first_step)
        self._console.print(escape(_opening(outline)))

    def step(self, step: int) -> None:  # noqa: D102
        del step

    def row(self, row: Mapping[str, float | int]) -> None:  # noqa: D102
        step = int(row["step"])
        if step >= self._next or step == self._steps or any(key.startswith("val/") for key in row):
            self._next = step + self._steps / PLAIN_ROWS
            self._console.print(escape(f"step {step}/{self._steps}  {figures(row)}"))

    def event(self, event: Event) -> None:  # noqa: D102
        if event.kind in TOLD:
            self._console.print(escape(f"step {event.step}: {event.kind}: {event.message}"))

    def stop(self) -> None:  # noqa: D102
        return


class LiveProgress(Progress):
    """A bar with loss, scale, skips, samples/s and the time left; validations stay as lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._latest: dict[str, float | int] = {}
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=5,
        )
        self._line: TaskID | None = None

    def start(self, outline: Outline) -> None:  # noqa: D102
        self._console.print(escape(_opening(outline)))
        self._line = self._bar.add_task(outline.task, total=outline.steps, completed=outline.first_step, figures="")
        self._bar.start()

    def step(self, step: int) -> None:  # noqa: D102
        if self._line is not None:
            self._bar.update(self._line, completed=step)

    def row(self, row: Mapping[str, float | int]) -> None:  # noqa: D102
        validated = {key: value for key, value in row.items() if key.startswith("val/")}
        self._latest = {key: value for key, value in row.items() if key not in validated}
        if self._line is not None:
            self._bar.update(self._line, figures=escape(figures(self._latest)))
        if validated:
            self._bar.console.print(escape(f"step {row['step']}  {figures(validated)}"))

    def event(self, event: Event) -> None:  # noqa: D102
        if event.kind in TOLD:
            self._bar.console.print(escape(f"step {event.step}: {event.kind}: {event.message}"))

    def stop(self) -> None:  # noqa: D102
        self._bar.stop()
