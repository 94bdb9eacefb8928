"""The largest micro-batch that fits: doubling until one does not, then halving what lies between."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Largest:
    """What was found."""

    size: int | None
    """Samples in a forward; None: not known, or not even one fits."""
    reason: str = ""
    """Why it is None, or may be too small; "" where one sample more was seen not to fit."""


def largest_fitting(
    fits: Callable[[int], bool], *, start: int, most: int, time_left: Callable[[], bool] = lambda: True
) -> Largest:
    """Search the largest size that fits.

    Args:
        fits: Tells whether a size fits; if one does, every smaller one does, too.
        start: Where to begin.
        most: Larger ones are not tried.
        time_left: Asked before each try.
    """
    low, high, size = 0, most + 1, min(start, most)
    while high - low > 1:
        if not time_left():
            return _unfinished(low, high, most)
        if fits(size):
            low = size
        else:
            high = size
        size = min(2 * low, most) if high > most else (low + high) // 2
    if low == most:
        return Largest(size=low, reason="larger ones were not tried: there are no more samples")
    return Largest(size=low or None, reason="" if low else "not even one sample fits")


def _unfinished(low: int, high: int, most: int) -> Largest:
    if not low:
        tried = f", and {high} samples do not fit" if high <= most else ""
        return Largest(size=None, reason=f"the time for it was over{tried}")
    bound = f", less than {high}" if high <= most else ""
    return Largest(size=low, reason=f"at least this{bound}: the time for it was over")
