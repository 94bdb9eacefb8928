"""How large a tensor's values are: counts by base-2 exponent, cut finer where a format's range ends.

The bins' edges are all powers of two of float32 and every edge of FORMATS, fp16's also at each loss scale. The shares
that overflow, become 0 or subnormal are therefore exact for what was counted, and no guess from the exponent. One
`bucketize` and one `scatter_add_` count a tensor, on its device.

float64's exponents beyond float32's are counted in the end bins.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from ampguard.health.formats import FORMATS, LOSS_SCALES, Edge, Format

LOWEST, HIGHEST = -149, 127
"""Exponents of float32's smallest subnormal and largest value. Source: torch.finfo(torch.float32)."""


def _format_edges(item: Format) -> set[Edge]:
    return {item.overflow, item.flush, item.normal}


def _all_edges() -> tuple[Edge, ...]:
    fp16 = FORMATS["fp16"]
    powers = {Edge(2.0**exponent) for exponent in range(LOWEST, HIGHEST + 1)}
    scaled = {fp16.flush.scaled(1 / scale) for scale in LOSS_SCALES}
    formats = set().union(*(_format_edges(item) for item in FORMATS.values()))
    return tuple(sorted(powers | scaled | formats | {Edge(math.inf)}))


EDGES = _all_edges()
"""Bin i holds the magnitudes from EDGES[i - 1] up to EDGES[i]: the first the zeros, the last inf and NaN."""

BINS = len(EDGES) + 1

_PLACES = {edge: place for place, edge in enumerate(EDGES)}


@cache
def _edges(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return EDGES as a tensor: what lies just above a value is the next one of the dtype."""
    values = torch.tensor([edge.value for edge in EDGES], dtype=dtype)
    above = torch.tensor([edge.above for edge in EDGES])
    edges = torch.where(above, torch.nextafter(values, torch.full_like(values, math.inf)), values)
    # Everything that is not zero, float64's smallest values too.
    edges[0] = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    return edges.to(device)


def count_into(counts: Tensor, magnitudes: Tensor) -> None:
    """Count magnitudes, in place.

    Args:
        counts: int64, shape (BINS,).
        magnitudes: Absolute values, float32 or float64, shape (N,), on the device of `counts`.

    Sync: none.
    """
    places = torch.bucketize(magnitudes, _edges(magnitudes.dtype, magnitudes.device), right=True)
    counts.scatter_add_(0, places, torch.ones_like(places))


@dataclass(frozen=True)
class Histogram:
    """The counts, on the host."""

    counts: Sequence[int]
    """BINS of them."""

    @property
    def total(self) -> int:
        """Values that were counted."""
        return sum(self.counts)

    @property
    def zeros(self) -> int:
        """Values that are 0."""
        return self.counts[0]

    @property
    def nonfinite(self) -> int:
        """Values that are inf or NaN."""
        return self.counts[-1]

    @property
    def nonzero(self) -> int:
        """Values that are finite and not 0: what all shares are of."""
        return sum(self.counts[1:-1])

    def below(self, edge: Edge) -> int:
        """Return how many finite values other than 0 are smaller than an edge.

        Exact for a member of EDGES. Another edge is taken for the power of two at or below it.
        """
        place = _PLACES.get(edge)
        if place is None:
            place = bisect_left(EDGES, Edge(2.0 ** math.floor(math.log2(edge.value))))
        return sum(self.counts[1 : min(place, len(EDGES) - 1) + 1])

    def overflow_pct(self, item: Format) -> float:
        """Return the share that a cast to the format takes beyond its largest value."""
        return self._pct(self.nonzero - self.below(item.overflow))

    def underflow_pct(self, item: Format) -> float:
        """Return the share that a cast to the format takes to 0."""
        return self._pct(self.below(item.flush))

    def subnormal_pct(self, item: Format) -> float:
        """Return the share that keeps only a part of its mantissa in the format."""
        return self._pct(self.below(item.normal) - self.below(item.flush))

    def flushed_pct(self, item: Format, scale: float) -> float:
        """Return the share that becomes 0 when multiplied by `scale` before the cast.

        Exact for 1 and, of fp16, for LOSS_SCALES. Else by exponent, a lower bound: another power of two misses only
        values that equal the edge, any other scale less than one exponent's count.
        """
        return self._pct(self.below(item.flush.scaled(1 / scale)))

    def exponents(self) -> tuple[int, list[int]]:
        """Return the lowest base-2 exponent e, 2**e <= |x| < 2**(e + 1), and the counts from it to the highest."""
        bins = zip(EDGES, self.counts[1:-1], strict=False)
        by_exponent = [
            sum(n for _, n in group) for _, group in groupby(bins, key=lambda b: math.frexp(b[0].value)[1] - 1)
        ]
        taken = [place for place, count in enumerate(by_exponent) if count]
        if not taken:
            return 0, []
        return LOWEST + taken[0], by_exponent[taken[0] : taken[-1] + 1]

    def _pct(self, part: int) -> float:
        return 100.0 * part / self.nonzero if self.nonzero else 0.0
