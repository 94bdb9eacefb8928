"""The page of a bench: its verdict first, then speed, memory and accuracy, and every figure with its reasons."""

from functools import cached_property

from markupsafe import Markup

from ampguard.reporting.bench import charts, tables
from ampguard.reporting.bench.draw_intervals import draw_intervals
from ampguard.reporting.bench.draw_stack import draw_stacks, part_swatch
from ampguard.reporting.bench.plots import Intervals, Stack, parity_plots, speed_plot, stacks
from ampguard.reporting.bench.read import PARTS, Bench, Trial
from ampguard.reporting.bench.words import mib, plainly
from ampguard.reporting.charts import Chart
from ampguard.reporting.sheet import TONES, Sheet
from ampguard.reporting.tables import Row
from ampguard.reporting.words import count, duration

TRIAL_TONES = {"ok": "good", "failed": "bad"}
PARITY_TONES = {"equivalent": "good", "different": "bad", "inconclusive": "odd"}
"""Colours of what was found; any other is soft."""


def render_page(bench: Bench) -> str:
    """Return the report of a bench as HTML."""
    return BenchPage(bench).render()


class BenchPage(Sheet):
    """What the template asks for."""

    brand = "ampguard bench"
    template = "bench.html.j2"
    styles = ("report.css", "bench.css")

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.parts = PARTS

    @property
    def heading(self) -> str:
        """The Task."""
        return self.bench.task

    @property
    def title(self) -> str:
        """What the browser's tab shows."""
        return f"{self.bench.task} - ampguard bench"

    @property
    def facts(self) -> list[str]:
        """Where and how it was measured."""
        compared = [f"compared with {self.bench.baseline}"] if self.bench.others else []
        took = [f"in {duration(self.bench.wall_s)}"] if self.bench.wall_s is not None else []
        return [f"on {self.bench.device}", *compared, *took]

    @property
    def tone(self) -> str:
        """Colour of the bench's status."""
        return TONES.get(self.bench.status, "odd")

    @property
    def cautions(self) -> list[str]:
        """What was required and is not reached, and what makes the figures less certain."""
        return [f"Not met: {one}" for one in self.bench.unmet] + list(self.bench.warnings)

    @cached_property
    def focus(self) -> Trial | None:
        """The trial that the key figures are of."""
        return tables.focus(self.bench)

    @property
    def key_figures(self) -> list[tuple[str, str, str]]:
        """(name, value, note)."""
        return tables.key_figures(self.bench)

    @property
    def left_out(self) -> list[Trial]:
        """Precisions that could not be measured."""
        return tables.left_out(self.bench)

    @cached_property
    def speed(self) -> Intervals | None:
        """The plot of speed-ups."""
        return speed_plot(self.bench)

    @cached_property
    def stacks(self) -> list[Stack]:
        """Where memory goes."""
        return stacks(self.bench)

    @cached_property
    def parity(self) -> list[Intervals]:
        """The plots of differences in accuracy."""
        return parity_plots(self.bench)

    @cached_property
    def times(self) -> Chart | None:
        """Block times."""
        return charts.time_chart(self.bench)

    @cached_property
    def curves(self) -> list[Chart]:
        """Loss and loss scale of the parity runs."""
        found = (charts.loss_chart(self.bench), charts.scale_chart(self.bench))
        return [chart for chart in found if chart is not None]

    @property
    def charts(self) -> list[Chart]:
        """The charts whose values are told to who points at them."""
        return [*([self.times] if self.times is not None else []), *self.curves]

    @property
    def nothing_timed(self) -> str:
        """Why there is no speed to show."""
        return self._why("speedup", "No block was timed")

    @property
    def nothing_faster(self) -> str:
        """Why there is a time and no speed-up."""
        if not self.bench.others:
            return f"Nothing was compared with {self.bench.baseline}: there is no speed-up."
        return self._why("speedup", f"There is no speed-up over {self.bench.baseline}")

    @property
    def nothing_held(self) -> str:
        """Why there is no memory to show."""
        return self._why("peak_memory_mib", "Memory was not measured")

    def _why(self, figure: str, said: str) -> str:
        told = "; ".join(f"{name}: {why}" for name, why in tables.why_none(self.bench, figure))
        return f"{said}: {told}." if told else f"{said}."

    @property
    def unjudged(self) -> list[tuple[str, str]]:
        """(precision, why) of those whose accuracy was not compared."""
        return tables.why_no_parity(self.bench)

    @property
    def rows(self) -> list[Row]:
        """Every figure."""
        return tables.every_figure(self.bench)

    @property
    def reasons(self) -> list[tables.Reason]:
        """Why figures are missing."""
        return tables.reasons(self.bench)

    @property
    def settings(self) -> list[Row]:
        """What the figures depend on."""
        return tables.settings(self.bench)

    @property
    def changes(self) -> list[Row]:
        """What is different from an older bench."""
        return tables.changes(self.bench)

    @property
    def change_names(self) -> tuple[str, ...]:
        """Headings of the changes."""
        return tables.CHANGE_NAMES

    @property
    def differences(self) -> list[Row]:
        """Settings that are not those of the older bench."""
        return tables.differences(self.bench)

    @property
    def seen(self) -> str:
        """How many parity runs the curves are of."""
        runs = sum(len(held.seeds) for held in self.bench.trained.values())
        return f"{count(runs, 'parity run')} read" if runs else "no parity run read"

    @property
    def about_memory(self) -> str:
        """What the stacks are of."""
        largest = max(self.stacks, key=lambda stack: stack.total).total
        kind = "resident memory" if "CPU" in self.bench.device else "allocated memory"
        return f"Peak of {kind} in three steps of a fresh process, and what of it is known, up to {mib(largest)}."

    def intervals(self, plot: Intervals) -> Markup:
        """Return a plot as SVG."""
        return draw_intervals(plot)

    def stack_figure(self) -> Markup:
        """Return the stacks as SVG."""
        return draw_stacks(self.stacks, about=self.about_memory)

    def part_swatch(self, part: str) -> Markup:
        """Return the piece of a stack of a legend."""
        return part_swatch(part)

    def plainly(self, word: str) -> str:
        """Return a word of the JSON as people write it."""
        return plainly(word)

    def trial_tone(self, trial: Trial) -> str:
        """Return the colour of a trial's status."""
        return TRIAL_TONES.get(trial.status, "odd")
