"""What a few tensors hold, as plain numbers: how large, and whether anything is not finite.

-inf alone is told apart from inf and NaN: an attention mask is made of it on purpose, so it is a suspect and no proof.
Left out: sparse and nested tensors, those without data (meta), and those inside a torch.func transform: they count as
finite.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What some tensors hold together."""

    max_abs: float | None = None
    """Largest finite |x|; None where nothing is."""
    zeros: bool = False
    """Whether one is exactly 0."""
    negatives: bool = False
    """Whether one is below 0 and finite."""
    infinite: bool = False
    """Whether one is +inf."""
    broken: bool = False
    """Whether one is NaN or +inf."""
    masked: bool = False
    """Whether one is -inf."""
    count: int = 0
    """How many are not finite."""

    @property
    def finite(self) -> bool:
        """Whether all are."""
        return not (self.broken or self.masked)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (tensor for item in value.values() for tensor in tensors_in(item))
    elif isinstance(value, tuple | list):
        yield from (tensor for item in value for tensor in tensors_in(item))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (tensor for field in fields(value) for tensor in tensors_in(getattr(value, field.name, None)))


@torch.no_grad()
def read(tensors: Sequence[Tensor | None]) -> Reading:
    """Return what the floating-point tensors among `tensors` hold. Sync: one for each."""
    found = [_read_one(tensor) for tensor in tensors if tensor is not None and _readable(tensor)]
    sizes = [reading.max_abs for reading in found if reading.max_abs is not None]
    return Reading(
        max_abs=max(sizes, default=None),
        zeros=any(reading.zeros for reading in found),
        negatives=any(reading.negatives for reading in found),
        infinite=any(reading.infinite for reading in found),
        broken=any(reading.broken for reading in found),
        masked=any(reading.masked for reading in found),
        count=sum(reading.count for reading in found),
    )


def readable(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the tensors that `read` looks into."""
    return [tensor for tensor in tensors if tensor is not None and _readable(tensor)]


def _readable(tensor: Tensor) -> bool:
    return (
        not is_lazy(tensor)
        and (tensor.is_floating_point() or tensor.is_complex())
        and not tensor.is_nested
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and tensor.numel() > 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _read_one(tensor: Tensor) -> Reading:
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    if plain.element_size() == 1:
        # The 8-bit formats have few operations of their own.
        plain = plain.float()
    finite = torch.isfinite(plain)
    parts = (plain == 0, (plain < 0) & finite, torch.isnan(plain), plain == torch.inf, plain == -torch.inf)
    # Apple's GPUs have no float64, and no float64 tensors either.
    wide = torch.float32 if plain.device.type == "mps" else torch.float64
    figures = [torch.where(finite, plain.abs(), -1).amax(), *(part.sum() for part in parts)]
    max_abs, zeros, negatives, nans, plus, minus = torch.stack([figure.to(wide) for figure in figures]).tolist()
    return Reading(
        max_abs=max_abs if max_abs >= 0 else None,
        zeros=zeros > 0,
        negatives=negatives > 0,
        infinite=plus > 0,
        broken=nans + plus > 0,
        masked=minus > 0,
        count=int(nans + plus + minus),
    )
