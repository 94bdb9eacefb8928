"""A heat map of exponents for a terminal: a line a module, a column an exponent, darker where more values are.

It reads without colour: the shade tells the share, `|` stands where the format ends, and the axis below names the
exponents. With colour, what lies outside of the format is orange and what lies inside blue, which all common kinds of
colour blindness tell apart. Where the exponents outnumber the columns, two or more share one.

Source: Okabe & Ito 2008, Color Universal Design, for the two colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from rich.text import Text

SHADES = ((30.0, "█"), (10.0, "▓"), (1.0, "▒"), (0.1, "░"), (0.0, "·"))
"""From which share of a line's values on, in percent, a cell is this dark."""

INSIDE, OUTSIDE, EDGE = "#56b4e9", "#e69f00", "bold"

NEAR = 12
"""Exponents from the values within which a format's end is still drawn."""

TICK = 8
"""Columns between two numbers of the axis."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Which exponents the columns stand for, and where the format's range lies among them."""

    first: int
    """Exponent of the first column."""
    columns: int
    per_column: int
    """Exponents that share a column."""
    lowest: int
    """Smallest exponent that the format has."""
    highest: int
    """Largest one."""

    def place(self, exponent: int) -> int:
        """Return the column of an exponent."""
        return (exponent - self.first) // self.per_column

    @property
    def left(self) -> int | None:
        """The column that the format's range begins with; None: it begins left of all columns."""
        place = self.place(self.lowest)
        return place if 0 < place < self.columns else None

    @property
    def right(self) -> int | None:
        """The column after the format's last; None: it ends right of all columns."""
        place = self.place(self.highest) + 1
        return place if 0 < place < self.columns else None

    def inside(self, column: int) -> bool:
        """Return whether any exponent of a column is in the format's range."""
        return self.place(self.lowest) <= column <= self.place(self.highest)


def make_axis(counts: Sequence[Mapping[int, int]], *, lowest: int, highest: int, width: int) -> Axis | None:
    """Return the axis that all counts fit on; None where there is nothing to show.

    Args:
        counts: {exponent: how many} of each line.
        lowest: Smallest exponent of the format.
        highest: Largest exponent of the format.
        width: Columns of the terminal that are free, the format's two edges included.
    """
    taken = [exponent for line in counts for exponent, values in line.items() if values]
    if not taken:
        return None
    first, last = min(taken), max(taken)
    # One column beyond an end shows that the format ends there.
    first = min(first, lowest - 1) if first - NEAR <= lowest else first
    last = max(last, highest + 1) if last + NEAR >= highest else last
    for per_column in count(1):
        # A column begins at the format's first exponent: none is half inside there.
        start = first - (first - lowest) % per_column
        columns = (last - start) // per_column + 1
        if columns <= max(1, width - 2):
            break
    return Axis(first=start, columns=columns, per_column=per_column, lowest=lowest, highest=highest)


def draw(counts: Mapping[int, int], axis: Axis) -> Text:
    """Return one line of cells."""
    cells = [0] * axis.columns
    for exponent, values in counts.items():
        if values:
            cells[axis.place(exponent)] += values
    total = sum(cells)
    line = Text()
    for column, values in enumerate(cells):
        if column in (axis.left, axis.right):
            line.append("|", EDGE)
        line.append(shade(100.0 * values / total if total else 0.0), INSIDE if axis.inside(column) else OUTSIDE)
    return line


def shade(share_pct: float) -> str:
    """Return the character of a share of a line's values."""
    return next((sign for least, sign in SHADES if share_pct >= least and share_pct > 0), " ")


def ruler(axis: Axis) -> Text:
    """Return the numbers below the cells: the exponents of some columns, a `|` under none of them."""
    signs = [" "] * (axis.columns + 8)
    for column in range(0, axis.columns, TICK):
        shift = sum(1 for edge in (axis.left, axis.right) if edge is not None and edge <= column)
        label = str(axis.first + column * axis.per_column)
        signs[column + shift : column + shift + len(label)] = label
    return Text("".join(signs).rstrip(), "dim")


def legend() -> str:
    """Return what the shades mean."""
    steps = " ".join(f"{sign} {least:g}%" if least else f"{sign} >0" for least, sign in reversed(SHADES))
    return f"Share of a line's values from: {steps}."
