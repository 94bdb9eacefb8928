"""The heat map of exponents: a strip for each tensor, under the ranges that each format can hold.

Formats: the exponent of the smallest subnormal and of the largest finite value.
Source: IEEE 754-2019 (binary16); torch.finfo (bfloat16); OCP OFP8 1.0 (E4M3: 2**-9 to 448, E5M2: 2**-16 to 57344).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from ampguard.reporting.ranges import Ranges, Tensor
from ampguard.reporting.svg import element
from ampguard.reporting.words import number, power_of_two

FORMATS: Final = {"fp16": (-24, 15), "bf16": (-133, 127), "e4m3": (-9, 8), "e5m2": (-16, 15)}
"""Exponents of the smallest subnormal and the largest value."""

SHADES: Final = 8
"""Shades of a cell, by the root of its count over the tensor's highest: a hundredth of that is still seen."""


@dataclass(frozen=True)
class Strip:
    """One row of the heat map."""

    name: str
    note: str
    figure: Markup
    lost: str
    """What fp16 would lose, in words; "" if nothing."""


def draw_formats(ranges: Ranges) -> list[Strip]:
    """Return a bar for each format over the exponents that the heat map shows."""
    low, high = ranges.exponents
    strips = []
    for name, (first, last) in FORMATS.items():
        start, stop = max(first, low), min(last + 1, high)
        bar = element("rect", class_="format", x=start - low, width=max(0, stop - start), y=6, height=6)
        words = f"{name} holds {power_of_two(first)} to {power_of_two(last + 1)}."
        strips.append(Strip(name, "", _figure(words, low, high, [bar]), ""))
    return strips


def draw_tensors(ranges: Ranges) -> list[Strip]:
    """Return a strip for each tensor."""
    low, high = ranges.exponents
    return [_strip(tensor, low, high) for tensor in ranges.tensors]


def edges(ranges: Ranges) -> list[str]:
    """Return the labels of the exponent axis: its first, middle and last."""
    low, high = ranges.exponents
    return [power_of_two(exponent) for exponent in (low, (low + high) // 2, high)]


def _strip(tensor: Tensor, low: int, high: int) -> Strip:
    most = max(tensor.counts)
    cells = [_cell(tensor.lowest + n - low, held / most) for n, held in enumerate(tensor.counts) if held]
    limits = [_limit(exponent - low) for exponent in (-24, 16) if low < exponent < high]
    name = f"{tensor.fqn or '(model)'}, {tensor.kind.replace('_', ' ')}"
    largest = f"largest {number(tensor.max_abs)}" if tensor.max_abs is not None else ""
    lost = _lost(tensor)
    words = f"{name}: {_spread(tensor)}. {largest}. {lost or 'fp16 holds all of it'}."
    return Strip(
        tensor.fqn or "(model)", f"{tensor.kind} {tensor.dtype}", _figure(words, low, high, cells + limits), lost
    )


def _spread(tensor: Tensor) -> str:
    filled = [tensor.lowest + n for n, held in enumerate(tensor.counts) if held]
    return f"exponents {filled[0]} to {filled[-1]}" if filled else "all zero"


def _lost(tensor: Tensor) -> str:
    """Return what fp16 would lose of a tensor, in words; "" if nothing."""
    parts = []
    for words, share in (
        ("overflows", tensor.overflow_pct.get("fp16", 0.0)),
        ("flushes to zero", tensor.underflow_pct.get("fp16", 0.0)),
        ("is non-finite", tensor.nonfinite_pct or 0.0),
    ):
        if share > 0:
            parts.append(f"{share:.2g} % {words}")
    return ", ".join(parts)


def _cell(at: float, share: float) -> Markup:
    shade = max(1, min(SHADES, round(SHADES * share**0.5)))
    return element("rect", class_=f"h{shade}", x=at, width=1, y=0, height=18)


def _limit(at: float) -> Markup:
    return element("line", class_="limit", x1=at, x2=at, y1=0, y2=18)


def _figure(words: str, low: int, high: int, drawn: Sequence[Markup]) -> Markup:
    return element(
        "svg",
        element("title", words),
        *drawn,
        class_="strip",
        viewBox=f"0 0 {max(1, high - low)} 18",
        preserveAspectRatio="none",
        role="img",
    )
