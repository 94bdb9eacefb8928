"""Stacks of memory as inline SVG: a bar a precision, its parts side by side, its name and peak above."""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from ampguard.reporting.axes import Linear
from ampguard.reporting.bench.labels import LEFT, LINE, RIGHT, draw_label, lines_for
from ampguard.reporting.bench.plots import Stack
from ampguard.reporting.bench.read import PARTS
from ampguard.reporting.bench.words import mib
from ampguard.reporting.svg import element, joined
from ampguard.reporting.words import tick

WIDTH: Final = 420.0
TOP: Final = 2.0
GAP: Final = 8.0
"""Space beneath a bar."""

BAR: Final = 20.0
LETTER: Final = 6.2
"""Width of a letter of a part's name, about: a name stands in its part where it fits."""


def draw_stacks(stacks: Sequence[Stack], *, about: str) -> Markup:
    """Return the figure of stacks. about: what they are of."""
    longest, lines = max(stack.total for stack in stacks), lines_for((stack.name, stack.told) for stack in stacks)
    row = LINE * lines + 4 + BAR + GAP
    bottom = TOP + row * len(stacks)
    return element(
        "svg",
        element("title", "Memory", id="memory-title"),
        element("desc", describe(stacks, about), id="memory-desc"),
        _floor(longest, bottom),
        *(_stack(stack, longest, TOP + row * at, lines) for at, stack in enumerate(stacks)),
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {bottom + 20:g}",
        role="img",
        aria_labelledby="memory-title memory-desc",
    )


def describe(stacks: Sequence[Stack], about: str) -> str:
    """Return what the stacks show, in words."""
    return " ".join([about, *(f"{stack.name}: {stack.told}; {_parts(stack)}." for stack in stacks)])


def _parts(stack: Stack) -> str:
    return ", ".join(f"{part} {mib(size)}" for part, size in stack.parts) or "parts unknown"


def part_swatch(part: str) -> Markup:
    """Return the piece of a stack that a legend shows."""
    return element(
        "svg",
        element("rect", class_=f"part p{PARTS.index(part)}", x=2, y=1, width=24, height=10),
        class_="swatch",
        viewBox="0 0 28 12",
        aria_hidden="true",
    )


def _x(size: float, longest: float) -> float:
    return LEFT + (RIGHT - LEFT) * (size / longest)


def _floor(longest: float, bottom: float) -> Markup:
    drawn = [element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=bottom, y2=bottom)]
    for value in Linear(0.0, longest).ticks(4):
        if value <= longest:
            x = _x(value, longest)
            drawn.append(element("line", class_="grid", x1=x, x2=x, y1=TOP, y2=bottom))
            at = "start" if value == 0 else "middle" if x < RIGHT - 14 else "end"
            drawn.append(element("text", tick(value), class_="tick", x=x, y=bottom + 14, text_anchor=at))
    return joined(drawn)


def _stack(stack: Stack, longest: float, top: float, lines: int) -> Markup:
    drawn = [draw_label(stack.name, stack.told, top, lines)]
    y, begun = top + LINE * lines + 4, 0.0
    for part, size in stack.parts:
        drawn.append(_part(part, size, _x(begun, longest), _x(begun + size, longest), y))
        begun += size
    if not stack.parts and stack.peak:
        width = _x(stack.peak, longest) - LEFT
        drawn.append(element("rect", class_="part whole", x=LEFT, y=y, width=width, height=BAR))
    if stack.peak:
        x = _x(stack.peak, longest)
        drawn.append(
            element(
                "line", element("title", f"peak {mib(stack.peak)}"), class_="peak", x1=x, x2=x, y1=y - 3, y2=y + BAR + 3
            )
        )
    return element("g", *drawn)


def _part(part: str, size: float, left: float, right: float, y: float) -> Markup:
    told = element("title", f"{part} {mib(size)}")
    bar = element("rect", told, class_=f"part p{PARTS.index(part)}", x=left, y=y, width=right - left, height=BAR)
    if right - left < LETTER * len(part) + 10:
        return bar
    return joined((bar, element("text", part, class_="inside", x=left + 6, y=y + 14)))
