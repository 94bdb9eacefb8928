"""What was seen of one module's tensors of one kind: a running histogram, on the device.

At most `elements` values of a tensor are counted, evenly spaced. The distance between two of them has no divisor in
common with the tensor's size, so that every channel is visited; an even one would see the same few of them again and
again. The largest magnitude is that of *all* values: the one that overflows may be one in a million.
"""

import math

import torch
from torch import Tensor

from ampguard.health.histogram import BINS, Histogram, count_into

ELEMENTS = 2**16
"""Values of a tensor that are counted at most: a share of 0.1 % is then known to within 0.02 % (one standard error)."""

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


class Tally:
    """Counts of tensors that are given one after another.

    Args:
        device: Of the first tensor; a tensor from elsewhere is sent there once it is sampled.
        elements: Values that are counted of a tensor.
    """

    def __init__(self, device: torch.device, elements: int) -> None:
        self._elements = elements
        self.counts = torch.zeros(BINS, dtype=torch.int64, device=device)
        self.largest = torch.zeros((), device=device)
        """Largest finite magnitude; 0 where there is none."""
        self.smallest = torch.full((), math.inf, device=device)
        """Smallest magnitude that is not 0, of those counted; inf where there is none."""
        self.dtypes: dict[str, None] = {}

    def add(self, values: Tensor, scale: float = 1.0) -> None:
        """Count a tensor's values. They are not changed.

        Args:
            values: From `real_values`, not empty.
            scale: What they were multiplied by, and are divided by here; a power of two changes no digit of them.

        Sync: none.
        """
        self.dtypes[str(values.dtype).removeprefix("torch.")] = None
        sample = (_widened(sampled(values, self._elements)).abs() / scale).to(self.counts.device)
        count_into(self.counts, sample)
        finite = torch.where(sample.isfinite(), sample, 0.0)
        whole = (largest(values) / scale).to(self.counts.device)
        # With an inf or NaN somewhere, only the sample tells what the finite values were.
        self.largest = torch.maximum(self.largest, torch.where(whole.isfinite(), whole, finite.amax()))
        self.smallest = torch.minimum(self.smallest, torch.where(finite > 0, finite, math.inf).amin())

    def histogram(self) -> Histogram:
        """Return the counts. Sync: one."""
        return Histogram(self.counts.tolist())


def largest(values: Tensor) -> Tensor:
    """Return the largest magnitude of all values, shape (); inf or NaN where one is. Sync: none."""
    norm: Tensor = torch.linalg.vector_norm(_computable(values), ord=math.inf)
    return norm


def sampled(values: Tensor, elements: int) -> Tensor:
    """Return at most `elements` of the values, evenly spaced in memory, shape (N,)."""
    flat = _in_memory_order(values).reshape(-1)
    stride = -(-flat.numel() // elements)
    while math.gcd(stride, flat.numel()) > 1:
        stride += 1
    return flat[::stride]


def real_values(tensor: Tensor) -> Tensor | None:
    """Return the numbers that a tensor stores, detached: complex ones as pairs, sparse ones without the gaps.

    None where there is nothing to count: integers, no elements, no memory (meta, fake).
    """
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return None
    return tensor


def _in_memory_order(values: Tensor) -> Tensor:
    """Return a dense tensor's dimensions as they lie in memory, so that flattening it copies nothing."""
    if values.is_contiguous():
        return values
    return values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))


def _widened(values: Tensor) -> Tensor:
    return values if values.dtype is torch.float64 else values.float()


def _computable(values: Tensor) -> Tensor:
    # Of the eight-bit formats torch can only convert.
    return values.float() if str(values.dtype).removeprefix("torch.") in _FLOAT8 else values
