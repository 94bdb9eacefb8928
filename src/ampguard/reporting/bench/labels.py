"""The text above a row of a plot: its name on the left, its figures on the right, or beneath where both are long."""

from collections.abc import Iterable
from typing import Final

from markupsafe import Markup

from ampguard.reporting.svg import element, joined

LEFT: Final = 14.0
RIGHT: Final = 406.0
LINE: Final = 17.0
"""Height of a line of text."""

LETTER: Final = 7.6
"""Width of a letter, about, and rather more."""

LONGEST: Final = 50
"""Letters that fit in a line."""


def lines_for(labels: Iterable[tuple[str, str]]) -> int:
    """Return how many lines the labels of a plot take, the same for each row: 2 where any (name, figures) needs it."""
    return 2 if any(LETTER * (len(name) + len(told)) > RIGHT - LEFT - 8 for name, told in labels) else 1


def draw_label(name: str, told: str, top: float, lines: int) -> Markup:
    """Return the text of a row that begins at `top`. What is too long is cut: tables have it whole."""
    first, second = top + LINE - 3, top + LINE * lines - 3
    x, anchor = (RIGHT, "end") if lines == 1 else (LEFT, "start")
    return joined(
        (
            element("text", _cut(name), class_="name halo", x=LEFT, y=first),
            element("text", _cut(told), class_="told halo", x=x, y=second, text_anchor=anchor),
        )
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
