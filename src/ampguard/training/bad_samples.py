"""Which samples of a batch hold values that are not finite, and where they stand in the dataset."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ampguard.task import Batch
from ampguard.training.data import TrainData
from ampguard.training.data.nested import tensors_of

MOST = 20
"""Samples that are listed; more say nothing more."""


@dataclass(frozen=True, kw_only=True)
class BadSamples:
    """Samples with a value that is NaN or inf."""

    rows: tuple[int, ...]
    """Their places in the batch, from 0."""
    indices: tuple[int, ...]
    """Their places in the dataset; empty where the data has no order."""

    def __str__(self) -> str:
        rows = f"sample {', '.join(map(str, self.rows))} of the batch"
        return f"{rows} (number {', '.join(map(str, self.indices))} of the dataset)" if self.indices else rows


def bad_samples(batch: Batch, data: TrainData, epoch: int, position: int) -> BadSamples | None:
    """Return the samples of a batch that are not finite, at most 20; None: there are none.

    Args:
        batch: Of the step; its samples lie along the leading dimension.
        data: What it was read from.
        epoch: Where it stood.
        position: Where it stood in the epoch.
    """
    rows = sorted({row for tensor in tensors_of(batch) for row in _bad_rows(tensor)})[:MOST]
    if not rows:
        return None
    indices = data.indices(epoch, position)
    known = all(row < len(indices) for row in rows)
    return BadSamples(rows=tuple(rows), indices=tuple(indices[row] for row in rows) if known else ())


def _bad_rows(tensor: Tensor) -> list[int]:
    if tensor.dim() == 0 or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return []
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    # torch does not test what has 8 bits.
    values = values.float() if values.itemsize == 1 else values
    # -inf alone may be a mask, as for the Locator.
    bad = torch.isnan(values) | torch.isposinf(values)
    rows: list[int] = bad.reshape(len(tensor), -1).any(1).nonzero().flatten().tolist()
    return rows
