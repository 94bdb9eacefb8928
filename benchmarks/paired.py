"""Compare two timings taken in the same moments: block by block, as a ratio with an interval.

A shared machine drifts: absolute times of one loop differ more between two minutes than two loops differ in one. So
the rivals run in turn within every block, and each block gives one ratio. Neighbouring blocks share the machine's mood,
which an ordinary bootstrap would take for independent evidence; the moving-block bootstrap resamples runs of
neighbours instead.

Source: Kuensch 1989 (the moving-block bootstrap); Hall, Horowitz and Jing 1995 (length of the order n**(1/3)).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
"""Enough that the ends of a 95 % interval move by less than 1 % of its width from seed to seed."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A median of block-paired ratios and its 95 % interval."""

    median: float
    low: float
    high: float
    blocks: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def block_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Return one ratio for each block.

    Raises:
        ValueError: The two have not the same number of blocks.
    """
    return [upper / lower for upper, lower in zip(numerator, denominator, strict=True)]


def summarise(ratios: Sequence[float]) -> Ratio:
    """Return the median of `ratios` and its percentile interval from a seeded moving-block bootstrap."""
    values = np.asarray(ratios)
    low, high = np.quantile(np.median(_resampled(values), axis=1), [0.025, 0.975])
    return Ratio(median=float(np.median(values)), low=float(low), high=float(high), blocks=len(values))


def _resampled(values: "np.ndarray") -> "np.ndarray":
    """Return RESAMPLES series of the length of `values`, each pasted from runs of neighbours."""
    count = len(values)
    length = max(1, round(count ** (1 / 3)))
    runs = -(-count // length)
    starts = np.random.default_rng(SEED).integers(0, count - length + 1, size=(RESAMPLES, runs))
    places = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count]
    return values[places]
