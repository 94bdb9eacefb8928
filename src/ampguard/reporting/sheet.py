"""What every page has: a policy that lets it load nothing, its style and script, and how a chart is shown on it.

The page forbids itself everything but its own style and its own script, both named by their hash in its content
security policy: a script that came in with a run's name or message would not run even if it were not escaped.
"""

import hashlib
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ampguard import __version__
from ampguard.reporting.charts import Chart
from ampguard.reporting.draw_chart import draw_chart, swatch, tall_skips
from ampguard.reporting.plain import embedded
from ampguard.reporting.svg import element, joined
from ampguard.reporting.words import number

TONES = {"finished": "good", "stopped_early": "good", "failed": "bad", "running": "news"}
"""Colour of a status; any other is odd."""


class Sheet(ABC):
    """What the templates that all pages share ask for."""

    brand = "ampguard report"
    """What stands above the heading."""
    template = "report.html.j2"
    """Its template."""
    styles: tuple[str, ...] = ("report.css",)
    """Files of its style."""

    def __init__(self) -> None:
        self.version = __version__
        self.style = Markup("").join(map(_own_file, self.styles))
        self.script = _own_file("report.js")

    def render(self) -> str:
        """Return the page as HTML."""
        return _environment().get_template(self.template).render(page=self)

    @property
    @abstractmethod
    def title(self) -> str:
        """What the browser's tab shows."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """The first line of the page."""

    @property
    @abstractmethod
    def charts(self) -> Sequence[Chart]:
        """The charts whose values are told to who points at them."""

    @property
    def policy(self) -> str:
        """What the page may load: nothing; and run: its own style and script."""
        return (
            f"default-src 'none'; style-src '{_hash(self.style)}'; script-src '{_hash(self.script)}'; "
            "base-uri 'none'; form-action 'none'"
        )

    @property
    def data(self) -> Markup:
        """The numbers of the charts as JSON."""
        return embedded(self.charts)

    def figure(self, chart: Chart) -> Markup:
        """Return a chart as SVG."""
        return draw_chart(chart)

    def banded(self, chart: Chart) -> bool:
        """Return whether a chart shows means of several values instead of points."""
        return any(line.buckets for line in chart.lines)

    def swatch(self, style: int, marked: bool = False) -> Markup:
        """Return the piece of line of a legend."""
        return swatch(style, marked=marked)

    def skips(self, chart: Chart) -> str:
        """Return how many skipped steps a chart's marks stand for."""
        return f"{sum(mark.count for _, mark in chart.skips):,}"

    def tall_skips(self, chart: Chart) -> bool:
        """Return whether the marks of skipped steps reach over the whole height."""
        return tall_skips(chart)

    def at_rest(self, chart: Chart) -> Markup:
        """Return what the read-out says before anybody points at the chart: the last values."""
        last = max(line.whole.last[0] for line in chart.lines)
        parts: list[str | Markup] = [f"{chart.across} {last:,}"]
        for line in chart.lines:
            step, value = line.whole.last
            where = "" if step == last else f" ({chart.across} {step:,})"
            parts += [f" \u00b7 {line.name} ", element("b", number(value)), where]
        return joined(parts)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ampguard.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = number
    return environment


def _own_file(name: str) -> Markup:
    return Markup(files("ampguard.reporting").joinpath("templates", name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
