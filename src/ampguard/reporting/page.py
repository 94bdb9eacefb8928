"""The report of runs as one HTML file: no network, every value escaped, light and dark, readable with scripts off."""

from collections.abc import Sequence
from functools import cached_property

from markupsafe import Markup

from ampguard.reporting import draw_heat, tables
from ampguard.reporting.charts import OTHERS, Chart, make_charts, other_metrics
from ampguard.reporting.events import Told
from ampguard.reporting.lanes import Lane, listed_tones, make_lanes, span_of
from ampguard.reporting.ranges import Ranges
from ampguard.reporting.run import Run, buckets_for
from ampguard.reporting.sheet import TONES, Sheet
from ampguard.reporting.tables import Row


def render_page(runs: Sequence[Run]) -> str:
    """Return the report of runs as HTML."""
    return Page(runs).render()


class Page(Sheet):
    """What the template asks for.

    Args:
        runs: At least one.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.runs = runs
        self.several = len(runs) > 1
        self.buckets = buckets_for(len(runs))

    @property
    def heading(self) -> str:
        """The run's name, or how many runs there are."""
        return f"{len(self.runs)} runs" if self.several else self.runs[0].label

    @property
    def title(self) -> str:
        """What the browser's tab shows."""
        names = " and ".join(run.label for run in self.runs) if len(self.runs) < 3 else self.heading
        return f"{names} - ampguard report"

    @property
    def notes(self) -> list[str]:
        """What could not be read."""
        return [f"{run.label}: {note}" if self.several else note for run in self.runs for note in run.notes]

    @property
    def nothing(self) -> str:
        """Why there is no chart."""
        return "No row of metrics yet: nothing was logged." if not self.several else "No run has logged a row yet."

    @cached_property
    def charts(self) -> list[Chart]:
        """The charts, in order."""
        return make_charts(self.runs)

    @property
    def unshown(self) -> int:
        """How many metrics have no chart, for there are so many."""
        return max(0, len(other_metrics(self.runs)) - OTHERS)

    @cached_property
    def key_figures(self) -> list[tuple[str, str, str]]:
        """(name, value, note) of a single run."""
        return tables.key_figures(self.runs[0])

    @cached_property
    def compared(self) -> list[Row]:
        """The runs side by side."""
        return tables.compared(self.runs)

    @cached_property
    def differences(self) -> list[Row]:
        """Options in which the runs differ."""
        return tables.differences(self.runs)

    @cached_property
    def options(self) -> list[Row]:
        """All options."""
        return tables.options(self.runs)

    @cached_property
    def versions(self) -> list[Row]:
        """What the runs were made with."""
        return tables.versions(self.runs)

    @property
    def any_event(self) -> bool:
        """Whether any run has an event."""
        return any(run.events.counts for run in self.runs)

    @cached_property
    def span(self) -> tuple[int, int]:
        """First and last step of the timeline."""
        return span_of(self.runs)

    @property
    def lanes(self) -> list[tuple[Run, list[Lane]]]:
        """The timeline of each run."""
        return [(run, make_lanes(run, self.span)) for run in self.runs]

    @property
    def told(self) -> list[tuple[Run, list[tuple[Told, str]], str]]:
        """(run, events with their colours, what is not listed)."""
        return [(run, listed_tones(run.events.listed), tables.unlisted(run)) for run in self.runs]

    @property
    def ranges(self) -> list[tuple[Run, Ranges]]:
        """The heat maps that there are."""
        return [(run, run.ranges) for run in self.runs if run.ranges is not None]

    def status_tone(self, run: Run) -> str:
        """Return the colour of a run's status."""
        return TONES.get(run.status, "odd")

    def breakable(self, kind: str) -> Markup:
        """Return the kind of an event, which a narrow screen may break behind an underscore."""
        return Markup("_<wbr>").join(kind.split("_"))

    def formats(self, ranges: Ranges) -> list[draw_heat.Strip]:
        """Return what each format holds."""
        return draw_heat.draw_formats(ranges)

    def tensors(self, ranges: Ranges) -> list[draw_heat.Strip]:
        """Return the rows of a heat map."""
        return draw_heat.draw_tensors(ranges)

    def edges(self, ranges: Ranges) -> list[str]:
        """Return the labels of a heat map's axis."""
        return draw_heat.edges(ranges)

    def thinned(self, run: Run) -> bool:
        """Return whether any curve of a run leaves points out."""
        return any(curve.thinned for curve in run.metrics.curves.values())
