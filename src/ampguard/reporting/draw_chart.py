"""A Chart as inline SVG: axes, lines, marks of skipped steps, and its content in words."""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from ampguard.reporting.axes import Axis, Linear, Steps, make_axis
from ampguard.reporting.charts import Chart, Gap, Line
from ampguard.reporting.events import Mark
from ampguard.reporting.svg import element, joined, marker, path
from ampguard.reporting.words import count, number, tick

WIDTH: Final = 420.0
HEIGHT: Final = 214.0
LEFT: Final = 56.0
RIGHT: Final = 404.0
TOP: Final = 14.0
BOTTOM: Final = 194.0
STYLES: Final = 8
"""Styles of lines that the page's style sheet knows."""

WHOLE_MARKS: Final = 60
"""Skip marks up to which each is a line over the whole height; more are short ones at the top."""


def draw_chart(chart: Chart) -> Markup:
    """Return the figure of a chart."""
    steps = Steps(*chart.steps)
    values = make_axis(chart.axis, *chart.values)
    return element(
        "svg",
        element("title", chart.title, id=f"{chart.id}-title"),
        element("desc", describe(chart), id=f"{chart.id}-desc"),
        _grid(values, chart),
        _floor(steps, chart.across),
        _skips(chart, steps),
        *(_line(line, steps, values, stepped=chart.axis == "log2") for line in chart.lines),
        *(_gap(gap, steps, values) for gap in chart.gaps),
        element("line", class_="cursor", x1=LEFT, x2=LEFT, y1=TOP, y2=BOTTOM, visibility="hidden"),
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_labelledby=f"{chart.id}-title {chart.id}-desc",
    )


def describe(chart: Chart) -> str:
    """Return what the chart shows, in words."""
    axis = {"linear": "", "log": " The vertical axis is logarithmic.", "log2": " The vertical axis doubles per step."}
    skips = sum(mark.count for _, mark in chart.skips)
    marked = f" Skipped steps are marked: {skips:,}." if skips else ""
    lines = " ".join([_described(line, chart) for line in chart.lines] + [f"{gap.told}." for gap in chart.gaps])
    ranges = (
        f" The line is the mean of {chart.means_of}, the band reaches from lowest to highest." if _banded(chart) else ""
    )
    return f"{chart.about}{axis[chart.axis]}{ranges}{marked} {lines}"


def _banded(chart: Chart) -> bool:
    return any(line.buckets for line in chart.lines)


def _described(line: Line, chart: Chart) -> str:
    whole, of, at = line.whole, f" {chart.unit}" if chart.unit else "", chart.across
    return (
        f"{line.name}: {count(line.count, 'value')} from {at} {whole.first[0]:,} to {whole.last[0]:,}; "
        f"first {number(whole.first[1])}{of}, last {number(whole.last[1])}{of}; "
        f"lowest {number(whole.low[1])}{of} at {at} {whole.low[0]:,}, "
        f"highest {number(whole.high[1])}{of} at {at} {whole.high[0]:,}."
    )


def swatch(style: int, *, marked: bool) -> Markup:
    """Return the piece of line that a legend shows."""
    drawn = [element("path", class_=f"line {_style(style)}", d="M1 6H27")]
    if marked:
        drawn.append(element("path", class_=f"dot {_style(style)}", d=marker(style, 14, 6)))
    return element("svg", *drawn, class_="swatch", viewBox="0 0 28 12", aria_hidden="true")


def geometry(chart: Chart) -> dict[str, float]:
    """Return where the plot lies, for the page's read-out: pixels of its sides, and the steps there."""
    steps = Steps(*chart.steps)
    return {"left": LEFT, "right": RIGHT, "width": WIDTH, "low": steps.low, "high": steps.high}


def _band(line: Line, steps: Axis, values: Axis) -> Markup:
    """Return the area from the lowest to the highest value of each range of steps."""
    highs = [(_x(steps, bucket.middle), _y(values, bucket.high[1])) for bucket in line.buckets]
    lows = [(_x(steps, bucket.middle), _y(values, bucket.low[1])) for bucket in reversed(line.buckets)]
    return element("path", class_=f"band {_style(line.style)}", d=f"{path([*highs, *lows])}Z")


def _style(style: int) -> str:
    return f"s{style % STYLES}"


def _x(axis: Axis, step: float) -> float:
    return LEFT + (RIGHT - LEFT) * axis.share(step)


def _y(axis: Axis, value: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * axis.share(value)


def _grid(values: Axis, chart: Chart) -> Markup:
    power = 2 if chart.axis == "log2" and not isinstance(values, Linear) else None
    drawn = []
    for value in values.ticks(5):
        y = _y(values, value)
        drawn.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=y, y2=y))
        label = tick(value, power_of=power if _is_power(value) else None)
        drawn.append(element("text", label, class_="tick", x=LEFT - 6, y=y + 3.5, text_anchor="end"))
    return joined(drawn)


def _is_power(value: float) -> bool:
    return value > 0 and value.hex().partition("p")[0] == "0x1.0000000000000"


def _floor(steps: Axis, across: str) -> Markup:
    drawn = [element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM)]
    for value in steps.ticks(5):
        x = _x(steps, value)
        drawn.append(element("line", class_="axis", x1=x, x2=x, y1=BOTTOM, y2=BOTTOM + 3))
        drawn.append(element("text", tick(value), class_="tick", x=x, y=BOTTOM + 14, text_anchor="middle"))
    drawn.append(element("text", across, class_="tick", x=LEFT - 6, y=BOTTOM + 14, text_anchor="end"))
    return joined(drawn)


def tall_skips(chart: Chart) -> bool:
    """Return whether skipped steps are lines over the whole height: where there are few, and of one run."""
    return len(chart.skips) <= WHOLE_MARKS and not _of_several(chart)


def _of_several(chart: Chart) -> bool:
    return len({line.run for line in chart.lines}) > 1


def _skips(chart: Chart, steps: Axis) -> Markup:
    several, tall = _of_several(chart), tall_skips(chart)
    low, high = chart.steps
    seen = [(run, mark) for run, mark in chart.skips if mark.last >= low and mark.first <= high]
    return joined(_skip(mark, steps, run if several else None, tall=tall) for run, mark in seen)


def _skip(mark: Mark, steps: Axis, run: int | None, *, tall: bool) -> Markup:
    """Return the mark of a skipped step: a line over the height, or a short one in the run's own lane at the top."""
    top = TOP - 4 + 5 * (run or 0)
    x = min(max(_x(steps, (mark.first + mark.last) / 2), LEFT), RIGHT)
    where = f"step {mark.first:,}" if mark.first == mark.last else f"steps {mark.first:,} to {mark.last:,}"
    bottom = BOTTOM if tall else top + 5
    return element(
        "line",
        element("title", f"{count(mark.count, 'skipped step')}: {where}"),
        class_="skip" if run is None else f"skip {_style(run)}",
        x1=x,
        x2=x,
        y1=top,
        y2=bottom,
    )


def _line(line: Line, steps: Axis, values: Axis, *, stepped: bool) -> Markup:
    at: Sequence[tuple[float, float]] = [(_x(steps, step), _y(values, value)) for step, value in line.trend]
    drawn = [_band(line, steps, values)] if line.buckets else []
    drawn.append(element("path", class_=f"line {_style(line.style)}", d=path(at, stepped=stepped and not line.buckets)))
    if line.marked:
        dots = "".join(marker(line.style, x, y, 2.4) for x, y in at)
        drawn.append(element("path", class_=f"dot {_style(line.style)}", d=dots))
    return joined(drawn)


def _gap(gap: Gap, steps: Axis, values: Axis) -> Markup:
    """Return a bracket between two lines."""
    x, (top, bottom) = _x(steps, gap.step), sorted(_y(values, value) for value in gap.values)
    bracket = f"M{x - 4:.1f} {top:.1f}H{x + 4:.1f}M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 4:.1f} {bottom:.1f}H{x + 4:.1f}"
    return element("path", element("title", gap.told), class_="gap", d=bracket)
