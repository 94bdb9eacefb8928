"""The rows of ranges.json as what a terminal shows: one line a module, blocks that are alike as one.

A line has two sides. `values`: what the module returns; its weights, where it returns nothing of floating point.
`gradients`: of what it returns and of its weights. A share is that of the worst tensor of the line, and so is the
largest value; the counts are those of all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"(?<![^.])\d+(?=\.)")
"""A component of an fqn that is a number, its last one apart: what a Sequential numbers is seldom alike."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Values or gradients of a line, as one format sees them."""

    max_abs: float | None
    """Largest magnitude; None: all are 0, or there are none."""
    counts: Mapping[int, int]
    """How many have each base-2 exponent."""
    nonfinite_pct: float
    overflow_pct: float
    underflow_pct: float
    scaled_pct: float | None
    """What becomes 0 in spite of a scale; None where the format's users have none."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A module, or several that differ only in the numbers of their fqn."""

    name: str
    values: Side | None
    gradients: Side | None


def lines(rows: Sequence[Mapping[str, Any]], format: str, *, fold: bool) -> list[Line]:
    """Return the lines, in the model's order.

    Args:
        rows: Of ranges.json.
        format: fp16, bf16, e4m3 or e5m2.
        fold: Whether blocks that are alike become one line.
    """
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        name = _NUMBER.sub("*", row["fqn"]) if fold else row["fqn"]
        groups.setdefault(name, {}).setdefault(row["fqn"], []).append(row)
    return [_line(name, members, format) for name, members in groups.items()]


def _line(pattern: str, members: Mapping[str, list[Mapping[str, Any]]], format: str) -> Line:
    rows = [row for group in members.values() for row in group]
    kinds = {row["kind"] for row in rows}
    fqn = next(iter(members)) if len(members) == 1 else f"{pattern} (x{len(members)})"
    return Line(
        name=fqn or "(the model itself)",
        values=_side(_of(rows, "activation" if "activation" in kinds else "weight"), format),
        gradients=_side(_of(rows, "gradient", "weight_gradient"), format),
    )


def _of(rows: Iterable[Mapping[str, Any]], *kinds: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["kind"] in kinds]


def _side(rows: Sequence[Mapping[str, Any]], format: str) -> Side | None:
    if not rows:
        return None
    counts: dict[int, int] = {}
    for row in rows:
        for exponent, count in enumerate(row["exponents"]["counts"], row["exponents"]["lowest"]):
            counts[exponent] = counts.get(exponent, 0) + count
    scaled = [row["underflow_scaled_pct"][format] for row in rows if format in row["underflow_scaled_pct"]]
    return Side(
        max_abs=max((row["max_abs"] for row in rows if row["max_abs"] is not None), default=None),
        counts=counts,
        nonfinite_pct=max(row["nonfinite_pct"] for row in rows),
        overflow_pct=max(row["overflow_pct"][format] for row in rows),
        underflow_pct=max(row["underflow_pct"][format] for row in rows),
        scaled_pct=max(scaled, default=None),
    )
