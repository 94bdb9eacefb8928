"""As accurate or not: paired differences over seeds, judged by two one-sided tests (TOST).

Both precisions train with the same seeds, so a seed's luck cancels in its difference. The mean difference has a
90 % interval (Student's t); two one-sided tests at 5 % say "equivalent" exactly when that interval lies inside the
margin on both sides. It outside, on one side, is "different"; anything else is "inconclusive", with the number of seeds
that would decide. A difference that is not significant is not equivalence: it may be ten times the margin.

Source: Schuirmann 1987 (TOST); Lakens 2017 (its interval form); Chow, Shao and Wang, Sample Size Calculations in
Clinical Research, section 3.2 (seeds needed).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

MIN_SEEDS = 3
"""Fewer give no verdict: with two, the t interval is thirteen standard errors wide."""

MAX_SEEDS = 1000
"""More than this and nobody will run them: reported as None."""

POWER = 0.8
"""Chance that the number of seeds in `seeds_needed` decides, if the difference is what was seen."""

Result = Literal["equivalent", "different", "inconclusive", "not_measured"]


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The verdict on paired differences."""

    result: Result
    seeds: int
    difference: float | None
    """Mean of the paired differences."""
    ci90: tuple[float, float] | None
    """Its 90 % interval: what the two one-sided tests at 5 % look at."""
    margin: float
    seeds_needed: int | None
    """Seeds that would decide an inconclusive answer with a chance of 80 %; None where it is decided or hopeless."""
    reason: str = ""
    """Why it was not measured, or is not decided; "" where it is."""


def equivalence(differences: Sequence[float], margin: float) -> Equivalence:
    """Judge paired differences, one a seed.

    Args:
        differences: Other minus baseline, in the unit of the margin.
        margin: What still counts as equal, > 0.
    """
    seeds = len(differences)
    if seeds < MIN_SEEDS or not all(map(math.isfinite, differences)):
        why = f"{seeds} seeds; a verdict needs {MIN_SEEDS}" if seeds < MIN_SEEDS else "a difference is not finite"
        return Equivalence(
            result="not_measured",
            seeds=seeds,
            difference=None,
            ci90=None,
            margin=margin,
            seeds_needed=MIN_SEEDS if seeds < MIN_SEEDS else None,
            reason=why,
        )
    mean, deviation = fmean(differences), stdev(differences)
    half = float(student.ppf(0.95, seeds - 1)) * deviation / math.sqrt(seeds)
    low, high = mean - half, mean + half
    result = _result(low, high, margin)
    needed = _seeds_needed(mean, deviation, margin) if result == "inconclusive" else None
    return Equivalence(
        result=result,
        seeds=seeds,
        difference=mean,
        ci90=(low, high),
        margin=margin,
        seeds_needed=needed,
        reason=_reason(result, needed),
    )


def _result(low: float, high: float, margin: float) -> Result:
    if -margin < low and high < margin:
        return "equivalent"
    return "different" if high < -margin or low > margin else "inconclusive"


def _reason(result: Result, needed: int | None) -> str:
    if result != "inconclusive":
        return ""
    if needed is None:
        return f"the difference is too close to the margin for {MAX_SEEDS} seeds to tell"
    return f"about {needed} seeds would tell"


def _seeds_needed(mean: float, deviation: float, margin: float) -> int | None:
    """Return the smallest n with (t + z) s / sqrt(n) within the distance of the mean to the nearer margin."""
    distance = abs(margin - abs(mean))
    if distance == 0.0:
        return None
    enough = np.flatnonzero(_standard_errors() * deviation <= distance)
    return MIN_SEEDS + int(enough[0]) if len(enough) else None


@cache
def _standard_errors() -> NDArray[np.float64]:
    """Return (t + z) / sqrt(n) for n from MIN_SEEDS to MAX_SEEDS: falling, shape (n,), float64."""
    n = np.arange(MIN_SEEDS, MAX_SEEDS + 1)
    factors: NDArray[np.float64] = (student.ppf(0.95, n - 1) + NormalDist().inv_cdf(POWER)) / np.sqrt(n)
    return factors
