"""The number formats whose range a tensor may leave, each as the magnitudes at which a cast changes its mind.

A cast rounds to the nearest value, ties to the one whose last bit is 0. Of a format that follows:

    flush      |x| <= half of its smallest subnormal is cast to 0
    normal     below its smallest normal less half a subnormal's step, the cast is subnormal (or 0)
    overflow   |x| >= its largest value plus half a step is cast to inf. e4m3 has no inf, and its largest value ends
               in 0, so that the tie stays: above 464 torch's cast gives NaN, or 448 in versions that saturate

Source: torch.finfo for every limit; IEEE 754-2019, section 4.3.1, for the rounding; Micikevicius et al. 2022 for
e4m3 (arXiv:2209.05433). tests/health compare all of them with torch's own casts.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, order=True, slots=True)
class Edge:
    """Where a class of magnitudes begins: at a value, or just above it."""

    value: float
    above: bool = False
    """Whether `value` itself belongs to the class below."""

    def scaled(self, factor: float) -> "Edge":
        """Return the edge of magnitudes that are multiplied by 1 / `factor` before the cast; a power of two."""
        return Edge(self.value * factor, self.above)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A number format."""

    name: str
    dtype: torch.dtype

    @property
    def largest(self) -> float:
        """Largest finite value."""
        return float(torch.finfo(self.dtype).max)

    @property
    def smallest(self) -> float:
        """Smallest subnormal."""
        limits = torch.finfo(self.dtype)
        return float(limits.tiny * limits.eps)

    @property
    def overflow(self) -> Edge:
        """Where magnitudes begin that do not fit."""
        step = torch.finfo(self.dtype).eps * 2.0 ** math.floor(math.log2(self.largest))
        return Edge(self.largest + step / 2, above=self.largest / step % 2 == 0)

    @property
    def flush(self) -> Edge:
        """Where magnitudes begin that do not become 0."""
        return Edge(self.smallest / 2, above=True)

    @property
    def exponents(self) -> tuple[int, int]:
        """The lowest and the highest base-2 exponent with which values neither become 0 nor overflow.

        At both ends a part of the exponent's values may: those that round out of the range.
        """
        return math.floor(math.log2(self.flush.value)), math.floor(math.log2(self.largest))

    @property
    def normal(self) -> Edge:
        """Where magnitudes begin that keep all bits of the mantissa."""
        return Edge(float(torch.finfo(self.dtype).tiny) - self.smallest / 2)


FORMATS = {
    item.name: item
    for item in (
        Format(name="fp16", dtype=torch.float16),
        Format(name="bf16", dtype=torch.bfloat16),
        Format(name="e4m3", dtype=torch.float8_e4m3fn),
        Format(name="e5m2", dtype=torch.float8_e5m2),
    )
}
"""By name, as on the command line."""

LOSS_SCALES = tuple(2.0**exponent for exponent in range(25))
"""Where fp16's loss scale may stand. Source: GuardConfig.min_scale and max_scale."""

LOSS_SCALE = 2.0**16
"""The loss scale that figures with a scale are of. Source: torch.amp.GradScaler's `init_scale`."""
