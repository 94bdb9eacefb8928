"""Dots with intervals as inline SVG: a row a precision, its name and figures above, its raw values beneath."""

from typing import Final

from markupsafe import Markup

from ampguard.reporting.axes import Axis, Linear, Log
from ampguard.reporting.bench.labels import LEFT, LINE, RIGHT, draw_label, lines_for
from ampguard.reporting.bench.plots import Intervals, Row
from ampguard.reporting.draw_chart import STYLES
from ampguard.reporting.svg import element, joined, marker
from ampguard.reporting.words import count, tick

WIDTH: Final = 420.0
TOP: Final = 18.0
BAR: Final = 18.0
"""Height of an interval."""

STRIPS: Final = 110.0
"""Height of all strips of raw values together, about."""

EDGE: Final = 5.0
"""Pixels beyond the plot where raw values stand that have no place in it."""


class Close(Linear):
    """Equal differences are equal distances; zero need not be on it."""

    def _widened(self, low: float, high: float) -> tuple[float, float]:
        air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return low - air, high + air


def draw_intervals(plot: Intervals) -> Markup:
    """Return the figure of a plot."""
    axis = Log(*plot.span) if plot.axis == "log" else Close(*plot.span)
    lines, strip = lines_for((row.name, row.told) for row in plot.rows), _strip(plot)
    height = LINE * lines + BAR + (strip + 12 if strip else 4)
    bottom = TOP + height * len(plot.rows)
    return element(
        "svg",
        element("title", plot.title, id=f"{plot.id}-title"),
        element("desc", describe(plot), id=f"{plot.id}-desc"),
        _band(plot, axis, bottom),
        _floor(plot, axis, bottom),
        *(_against(axis, value, label, bottom, at) for at, (value, label) in enumerate(plot.lines)),
        *(_row(row, axis, TOP + height * at, lines, strip) for at, row in enumerate(plot.rows)),
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {bottom + 20:g}",
        role="img",
        aria_labelledby=f"{plot.id}-title {plot.id}-desc",
    )


def _strip(plot: Intervals) -> float:
    """Return the height of each strip: high where there is room and much to show."""
    most = max(len(row.raw) for row in plot.rows)
    return min(max(STRIPS / len(plot.rows), 16.0), 5.0 * most)


def describe(plot: Intervals) -> str:
    """Return what a plot shows, in words."""
    rows = " ".join(f"{row.name}: {row.told}, {count(len(row.raw), 'raw value')}." for row in plot.rows)
    return f"{plot.about} {rows}"


def _x(axis: Axis, value: float) -> float:
    return LEFT + (RIGHT - LEFT) * axis.share(value)


def _band(plot: Intervals, axis: Axis, bottom: float) -> Markup:
    if plot.band is None:
        return Markup("")
    left, right = (_x(axis, value) for value in plot.band)
    return element("rect", class_="margin", x=left, y=TOP - 8, width=right - left, height=bottom - TOP + 8)


def _floor(plot: Intervals, axis: Axis, bottom: float) -> Markup:
    drawn = [element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=bottom, y2=bottom)]
    for value in axis.ticks(5):
        x = _x(axis, value)
        drawn.append(element("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 3))
        at = "start" if x < LEFT + 12 else "end" if x > RIGHT - 12 else "middle"
        drawn.append(element("text", f"{tick(value)}{plot.unit}", class_="tick", x=x, y=bottom + 15, text_anchor=at))
    return joined(drawn)


def _against(axis: Axis, value: float, label: str, bottom: float, at: int) -> Markup:
    """Return a line to compare with; the first one's label stands left of it, any other's right, so that none meet."""
    x, side = _x(axis, value), -1 if at == 0 else 1
    anchor = "end" if side < 0 else "start"
    return joined(
        (
            element("line", class_="against", x1=x, x2=x, y1=4, y2=bottom),
            element("text", label, class_="tick", x=x + 4 * side, y=12, text_anchor=anchor) if label else "",
        )
    )


def _row(row: Row, axis: Axis, top: float, lines: int, strip: float) -> Markup:
    style, y = f"s{row.style % STYLES}", top + LINE * lines + BAR / 2
    drawn = [draw_label(row.name, row.told, top, lines), _raw(row, axis, y + BAR / 2 + 4, strip, style)]
    if row.ends is not None:
        low, high = (_x(axis, end) for end in row.ends)
        bar = f"M{low:.1f} {y - 5:.1f}V{y + 5:.1f}M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 5:.1f}V{y + 5:.1f}"
        drawn.append(element("path", class_=f"whisker {style}", d=bar))
    if row.middle is not None:
        # Hollow where there is no interval: nobody knows how sure it is.
        dot = f"dot {style}" if row.ends is not None else f"hollow {style}"
        drawn.append(element("path", class_=dot, d=marker(row.style, _x(axis, row.middle), y, 4.5)))
    return element("g", *drawn)


def _raw(row: Row, axis: Axis, top: float, height: float, style: str) -> Markup:
    """Return the raw values from top to bottom in the order measured."""
    apart = height / max(1, len(row.raw) - 1)
    data = "".join(_speck(axis, value, top + apart * at) for at, value in enumerate(row.raw))
    return element("path", class_=f"speck {style}", d=data) if data else Markup("")


def _speck(axis: Axis, value: float, y: float) -> str:
    """Return a small round dot; one that has no place stands at the edge as a triangle."""
    share = axis.share(value) if value > 0 or axis.low < 0 else -1.0
    if 0.0 <= share <= 1.0:
        return marker(0, LEFT + (RIGHT - LEFT) * share, y, 1.9)
    return marker(2, LEFT - EDGE if share < 0 else RIGHT + EDGE, y, 2.6)
