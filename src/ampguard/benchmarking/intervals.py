"""How much faster, and how sure: ratios of block times that were measured side by side.

Each block runs every precision once, in random order, so that what the machine does meanwhile (another process, a clock
that falls) hits both sides of a ratio alike. One block gives one ratio; the speed-up is their median.

The interval inverts the sign test: the ranks n/2 -+ z sqrt(n k)/2 of the sorted ratios, interpolated between
neighbours. It asks nothing of the distribution, so bursts and outliers stay in. k is 1 for ratios that are independent;
where their first autocorrelation r is more than noise, k = (1 + r) / (1 - r), for a series that remembers itself holds
fewer independent values than it has. Coverage, simulated through the whole protocol, stands in docs/bench.md.

Source: Gibbons and Chakraborti, Nonparametric Statistical Inference, section 5.2 (sign test and its interval); Bartlett
1946 (variance under autocorrelation); Kendall 1954 and Marriott and Pope 1954 (bias of r: E[r] = r - (1 + 4 r) / n).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Z95 = NormalDist().inv_cdf(0.975)
"""Half-width of a 95 % interval in standard deviations."""

MIN_RATIOS = 10
"""Fewer blocks give no interval: of 10 independent ratios the extremes are still inside it."""

NOISY, TOO_NOISY = 0.10, 0.25
"""Interquartile range over median of the paired ratios: past the first a warning, past the second no verdict."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times with its interval, or the reason why there is none."""

    median: float | None
    """None where it is not known."""
    ci95: tuple[float, float] | None
    """None where it is not known."""
    iqr: float | None
    """Interquartile range of the paired ratios."""
    n: int
    """Paired ratios that it rests on."""
    reason: str = ""
    """Why a value is None; "" as a rule."""

    @property
    def spread(self) -> float | None:
        """Interquartile range over median; None without a ratio."""
        return self.iqr / self.median if self.iqr is not None and self.median else None


def speedup(baseline_s: Sequence[float], other_s: Sequence[float]) -> Ratio:
    """Return how many times as fast as the baseline `other` is, from times of the same blocks.

    Args:
        baseline_s: Seconds of each block, the baseline's.
        other_s: Seconds of the same blocks, the other's; as many.
    """
    if len(baseline_s) != len(other_s):
        raise ValueError(f"{len(baseline_s)} and {len(other_s)} blocks cannot be paired")
    pairs = [(base, other) for base, other in zip(baseline_s, other_s, strict=True) if base > 0 and other > 0]
    if not pairs:
        return Ratio(median=None, ci95=None, iqr=None, n=0, reason=_why_none(len(baseline_s)))
    ratios = np.array([base / other for base, other in pairs])
    low, high = np.quantile(ratios, (0.25, 0.75))
    reasons = [] if len(pairs) == len(baseline_s) else [f"{len(baseline_s) - len(pairs)} blocks took no time at all"]
    interval = None
    if len(pairs) >= MIN_RATIOS:
        below, above = median_interval(np.log(ratios))
        interval = (float(np.exp(below)), float(np.exp(above)))
    else:
        reasons.append(f"an interval needs {MIN_RATIOS} blocks, and {len(pairs)} were measured")
    return Ratio(
        median=float(np.median(ratios)), ci95=interval, iqr=float(high - low), n=len(pairs), reason="; ".join(reasons)
    )


def _why_none(blocks: int) -> str:
    return "every block took no time at all: the clock does not tell" if blocks else "no block was measured"


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the median of a series, in the order in which it was measured.

    Args:
        values: Shape (n,), float64, n >= 2.
    """
    n = len(values)
    half = Z95 * np.sqrt(n * inflation(values)) / 2
    ordered = np.sort(values)
    # Rank k of the sign test lies between the values k and k + 1 of the sorted series, counted from 1.
    place = max(0.0, n / 2 - half - 0.5)
    low, high = np.interp((place, n - 1 - place), np.arange(n), ordered)
    return float(low), float(high)


def inflation(values: NDArray[np.float64]) -> float:
    """Return how much larger the variance of a mean of this series is than if its values were independent; >= 1.

    1 unless the first autocorrelation is over one standard error above what independent values show, for an
    estimate from few values is mostly noise: without that test independent values were covered too often.
    """
    n = len(values)
    centred = values - values.mean()
    power = float(centred @ centred)
    if n < 5 or power == 0.0:
        return 1.0
    seen = float(centred[1:] @ centred[:-1]) / power
    if seen <= 1 / np.sqrt(n) - 1 / n:
        return 1.0
    corrected = min((n * seen + 1) / (n - 4), 0.9)
    return max(1.0, min((1 + corrected) / (1 - corrected), n / 4))
