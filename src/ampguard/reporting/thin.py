"""A curve of any length as few points that lose no extreme.

Steps fall into buckets of equal width. Each keeps its first, last, lowest and highest point, and its mean: with a
bucket a pixel column a line through its points covers the pixels that the line through all points covers, and a band
from lowest to highest with a line through the means shows the trend besides. Where buckets become too many, their width
doubles; widths are powers of two and buckets start at multiples of them, so that the outcome depends neither on how the
rows were cut into parts nor on how evenly the steps lie.

Source: Jugel et al. 2014, "M4: A Visualization-Oriented Time Series Data Aggregation" (PVLDB 7(10)).
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

BUCKETS = 400
"""Buckets that a curve has at most, and at least half as many once it is thinned: a chart is about 350 pixels wide."""

Point = tuple[int, float]
"""A step and its value."""


class Bucket(NamedTuple):
    """The points of one range of steps that matter."""

    first: Point
    last: Point
    low: Point
    high: Point
    total: float
    """Sum of the values; infinite where it overflows."""
    size: int
    """How many values there were."""

    @property
    def ends(self) -> tuple[Point, Point, Point, Point]:
        """The first, last, lowest and highest point."""
        return self.first, self.last, self.low, self.high

    @property
    def middle(self) -> float:
        """The step in the middle."""
        return (self.first[0] + self.last[0]) / 2

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return min(max(self.total / self.size, self.low[1]), self.high[1])

    def joined(self, other: "Bucket") -> "Bucket":
        """Return the bucket of both ranges; of equal values the earlier stays, of equal steps the later is last."""
        return Bucket(
            first=min(self.first, other.first, key=_step),
            last=self.last if self.last[0] > other.last[0] else other.last,
            low=min(self.low, other.low, key=_value),
            high=max(self.high, other.high, key=_value),
            total=self.total + other.total,
            size=self.size + other.size,
        )

    def points(self) -> list[Point]:
        """Return the different points by step."""
        return sorted(set(self.ends))


class Curve:
    """A metric over steps, thinned while it is read.

    Args:
        buckets: How many are kept at most.
    """

    def __init__(self, buckets: int = BUCKETS) -> None:
        self.count = 0
        """Values seen."""
        self._limit = buckets
        self._width = 1
        self._buckets: dict[int, Bucket] = {}

    def add(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take finite values at ascending steps."""
        start, end = 0, len(steps)
        self.count += end
        while start < end:
            index = steps[start] // self._width
            stop = bisect_left(steps, (index + 1) * self._width, start)
            self._put(index, _bucket(steps, values, start, stop))
            start = stop
        while len(self._buckets) > self._limit:
            self._widen()

    def join(self, other: "Curve") -> None:
        """Take what another curve of the same metric has seen; that one is changed."""
        while other._width < self._width:
            other._widen()
        while self._width < other._width:
            self._widen()
        for index, bucket in other._buckets.items():
            self._put(index, bucket)
        self.count += other.count
        while len(self._buckets) > self._limit:
            self._widen()

    @property
    def points(self) -> list[Point]:
        """The points kept, by step."""
        return [point for bucket in self.buckets for point in bucket.points()]

    @property
    def buckets(self) -> list[Bucket]:
        """The buckets by step."""
        return [self._buckets[index] for index in sorted(self._buckets)]

    @property
    def thinned(self) -> bool:
        """Whether points were left out."""
        return self.count > len(self.points)

    @property
    def whole(self) -> Bucket:
        """The first, last, lowest and highest point of all. There must be one."""
        first, *rest = self.buckets
        for bucket in rest:
            first = first.joined(bucket)
        return first

    def _put(self, index: int, bucket: Bucket) -> None:
        held = self._buckets.get(index)
        self._buckets[index] = bucket if held is None else held.joined(bucket)

    def _widen(self) -> None:
        narrow, self._buckets = self._buckets, {}
        self._width *= 2
        for index, bucket in narrow.items():
            self._put(index // 2, bucket)


def _bucket(steps: Sequence[int], values: Sequence[float], start: int, stop: int) -> Bucket:
    part = values[start:stop]
    low, high = min(part), max(part)
    return Bucket(
        first=(steps[start], part[0]),
        last=(steps[stop - 1], part[-1]),
        low=(steps[start + part.index(low)], low),
        high=(steps[start + part.index(high)], high),
        total=sum(part),
        size=len(part),
    )


def _step(point: Point) -> int:
    return point[0]


def _value(point: Point) -> float:
    return point[1]
