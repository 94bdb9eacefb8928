"""How a bench shows while it runs: a live table on a terminal, plain lines where the output is piped."""

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ampguard.benchmarking.watch import SilentWatch, Watch
from ampguard.cli.streams import stderr

if TYPE_CHECKING:
    from ampguard.benchmarking.budget import Plan
    from ampguard.benchmarking.protocol import Timings
    from ampguard.benchmarking.run import Bench


def make_watch(*, quiet: bool) -> Watch:
    """Return the watch that suits stderr."""
    if quiet:
        return SilentWatch()
    console = stderr()
    return LiveWatch(console) if console.is_terminal else PlainWatch(console)


def _opening(bench: "Bench") -> str:
    lineup = bench.lineup
    lines = [f"{lineup.task.name} on {lineup.hardware.label}, within {bench.budget_s:.0f} s; folder {bench.path}"]
    lines += [f"{name} cannot run here: {why}" for name, why in lineup.unsupported.items()]
    if any("emulates" in why for why in lineup.unsupported.values()):
        lines.append("--on-unsupported emulate measures all the same what is only emulated")
    return "\n".join(lines)


def _parity(precision: str, seed: int, plan: "Plan") -> str:
    return f"accuracy: seed {seed + 1} of {plan.seeds} in {precision}, {plan.steps} steps"


class PlainWatch(Watch):
    """Tells each stage in a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = perf_counter()
        self._told = ""

    def start(self, bench: "Bench") -> None:  # noqa: D102
        self._began = perf_counter()
        self._console.print(_opening(bench), markup=False)

    def stage(self, what: str) -> None:  # noqa: D102
        if what != self._told:
            self._console.print(f"{perf_counter() - self._began:5.0f} s  {what}", markup=False, soft_wrap=True)
        self._told = what

    def speed(self, stage: str, timings: "Timings", blocks: int) -> None:  # noqa: D102
        del timings
        self.stage(f"speed: {blocks} blocks of each precision in turn" if stage == "speed" else stage)

    def parity(self, precision: str, seed: int, plan: "Plan") -> None:  # noqa: D102
        self.stage(_parity(precision, seed, plan))

    def stop(self) -> None:  # noqa: D102
        return


class LiveWatch(Watch):
    """Redraws a table of what is known, and the time that is left of the budget."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bench: Bench | None = None
        self._stage = ""
        self._timings: Timings | None = None
        self._blocks = 0
        # Last: it asks for what to show at once.
        self._live = Live(console=console, transient=True, refresh_per_second=4, get_renderable=self._render)

    def start(self, bench: "Bench") -> None:  # noqa: D102
        self._bench = bench
        self._console.print(_opening(bench), markup=False)
        self._live.start()

    def stage(self, what: str) -> None:  # noqa: D102
        self._stage = what

    def speed(self, stage: str, timings: "Timings", blocks: int) -> None:  # noqa: D102
        self._stage, self._timings, self._blocks = stage, timings, blocks

    def parity(self, precision: str, seed: int, plan: "Plan") -> None:  # noqa: D102
        self._stage = _parity(precision, seed, plan)

    def stop(self) -> None:  # noqa: D102
        self._live.stop()

    def _render(self) -> Group:
        bench = self._bench
        left = "" if bench is None else f"   at most {max(0.0, bench.left_s()):.0f} s left"
        return Group(self._table(), Text(f"{self._stage}{left}", style="bold"))

    def _table(self) -> Table:
        grid = Table(box=SIMPLE_HEAD)
        grid.add_column("precision")
        for heading in ("blocks", "ms/step", "times as fast"):
            grid.add_column(heading, justify="right")
        measured = {} if self._timings is None else self._timings.blocks_s
        base = next(iter(measured.values()), [])
        for name, times in measured.items():
            faster = f"{median(base) / median(times):.2f}x" if times and median(times) > 0 else "-"
            step_ms = f"{median(times) * 1e3:,.3g}" if times else "-"
            grid.add_row(name, f"{len(times)}/{self._blocks}", step_ms, faster)
        return grid
