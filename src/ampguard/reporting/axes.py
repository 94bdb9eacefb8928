"""Axes: where a value lies between 0 and 1, and which values are worth a tick. Plain numbers."""

import math
import sys
from abc import ABC, abstractmethod
from typing import Final

NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Steps between ticks, times a power of ten."""


class Axis(ABC):
    """A range of values.

    Args:
        low: Its lowest value.
        high: Its highest, not below `low`.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = self._widened(low, high)

    @abstractmethod
    def _widened(self, low: float, high: float) -> tuple[float, float]:
        """Return the range with some air around it, never an empty one."""

    @abstractmethod
    def share(self, value: float) -> float:
        """Return where `value` lies: 0 at the lowest, 1 at the highest."""

    @abstractmethod
    def ticks(self, count: int) -> list[float]:
        """Return about `count` values, ascending, all within the range."""


class Linear(Axis):
    """Equal differences are equal distances."""

    def _widened(self, low: float, high: float) -> tuple[float, float]:
        air = (high / 2 - low / 2) * 0.12 or abs(high) * 0.1 or 1.0
        bottom = 0.0 if 0 <= low < high * 0.6 else low - air
        return max(bottom, -sys.float_info.max), min(high + air, sys.float_info.max)

    def share(self, value: float) -> float:  # noqa: D102
        # Halved: the difference of two finite numbers may overflow.
        return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)

    def ticks(self, count: int) -> list[float]:  # noqa: D102
        return _round_values(self.low, self.high, count)


class Steps(Linear):
    """Steps of a run, without air; ticks are whole."""

    def _widened(self, low: float, high: float) -> tuple[float, float]:
        return (low, high) if high > low else (low - 1, high + 1)

    def ticks(self, count: int) -> list[float]:  # noqa: D102
        return [value for value in super().ticks(count) if value == int(value)]


class Log(Axis):
    """Equal ratios are equal distances. Values are positive, from 1e-200 to 1e200.

    Args:
        low: Its lowest value.
        high: Its highest.
        base: What a tick is a power of.
    """

    def __init__(self, low: float, high: float, base: int = 10) -> None:
        self._base = base
        super().__init__(low, high)

    def _widened(self, low: float, high: float) -> tuple[float, float]:
        air = max(0.05 * (math.log(high) - math.log(low)), 0.5 * math.log(self._base) if low == high else 0.0)
        return math.exp(math.log(low) - air), math.exp(math.log(high) + air)

    def share(self, value: float) -> float:  # noqa: D102
        return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    def ticks(self, count: int) -> list[float]:  # noqa: D102
        base = math.log(self._base)
        first, last = math.ceil(math.log(self.low) / base), math.floor(math.log(self.high) / base)
        stride = max(1, math.ceil((last - first + 1) / count))
        powers = [float(self._base) ** n for n in range(first, last + 1, stride)]
        if len(powers) >= 3 or (self._base == 2 and len(powers) == 2):
            return powers
        found = self._between()
        return found if len(found) >= 2 else _round_values(self.low, self.high, count)

    def _between(self) -> list[float]:
        """Return 1, 2 and 5 times the powers of ten within the range, which is short."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found = [factor * 10.0**n for n in range(first, last + 1) for factor in (1, 2, 5)]
        return [value for value in found if self.low <= value <= self.high]


def make_axis(kind: str, low: float, high: float) -> Axis:
    """Return an axis of a kind: "linear", "log" or "log2"."""
    if kind == "linear":
        return Linear(low, high)
    return Log(low, high, base=2 if kind == "log2" else 10)


def _round_values(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round values between two, at equal distances."""
    step = _nice(high / count - low / count)
    first = math.ceil(low / step)
    values = [(first + n) * step for n in range(2 * count + 2)]
    return [value for value in values if low <= value <= high]


def _nice(step: float) -> float:
    """Return the nice step that is next above `step`."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next((factor * power for factor in NICE if factor * power >= step * 0.999), 10 * power)
