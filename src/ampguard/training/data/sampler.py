"""Which samples form a batch, and which random numbers they see: pure functions of (seed, epoch, position).

Resume is bit-exact only if batch 57 of epoch 3 is the same batch in a fresh process, with any number of workers.
So nothing here has a history: the permutation of an epoch is drawn from a generator seeded by `derive_seed(seed,
epoch)`, and while a batch is fetched the CPU generators of torch, Python and NumPy are seeded by `derive_seed(seed,
epoch, position)` and restored afterwards. Augmentation and masking that draw from them repeat exactly, and training's
own random numbers do not depend on the data.

Left out: generators that a dataset keeps itself, and those of accelerators.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ampguard.errors import ConfigError, TaskError
from ampguard.training.data.host_rng import host_seeded

_NUMPY_SEED_BITS = 32
"""Source: numpy.random.seed takes 0 to 2**32 - 1."""


class BatchKey(NamedTuple):
    """One batch, named: everything that its content depends on."""

    seed: int
    epoch: int
    position: int
    """Ordinal of the batch in its epoch, from 0."""
    indices: list[int]
    """The samples of the batch, in order."""


def derive_seed(*parts: int) -> int:
    """Return a seed of 64 bits from integers: the first 8 bytes of BLAKE2b over "a/b/c", big-endian.

    A hash, because torch's CPU generator uses the low 32 bits of its seed only: arithmetic such as
    `(seed << 32) + epoch` would drop the seed.

    Source: ATen/core/MT19937RNGEngine.h (`seed & 0xffffffff`).
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class PositionSampler(Sampler[BatchKey]):
    """A batch sampler: yields the batches of one epoch from a given position on.

    Args:
        size: Number of samples in the dataset.
        batch_size: Samples in a batch.
        seed: Seed of the run.
        epoch: Which permutation, from 0.
        start: Position of the first batch to yield.
        drop_last: Whether to leave out a short last batch.
        shuffle: False: the samples in their order.

    Raises:
        TaskError: The dataset is empty, or `start` lies past its end.
        ConfigError: The batch is empty or larger than the dataset.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        self._size, self._batch_size = size, batch_size
        self._seed, self._epoch, self._start = seed, epoch, start
        self._shuffle = shuffle
        self.batches_per_epoch = batches_in(size, batch_size, drop_last=drop_last)
        if start > self.batches_per_epoch:
            raise TaskError(
                f"batch {start} of the epoch was asked for, but an epoch has {self.batches_per_epoch} batches "
                f"({size} samples, batch_size {batch_size}).",
                hint="The data or batch_size differ from those of the run that is resumed.",
            )

    def __len__(self) -> int:
        return self.batches_per_epoch - self._start

    def __iter__(self) -> Iterator[BatchKey]:
        order = self._order()
        for position in range(self._start, self.batches_per_epoch):
            indices = order[position * self._batch_size : (position + 1) * self._batch_size].tolist()
            yield BatchKey(self._seed, self._epoch, position, indices)

    def _order(self) -> Tensor:
        if not self._shuffle:
            return torch.arange(self._size)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
        return torch.randperm(self._size, generator=generator)


def batches_in(size: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return the number of batches in an epoch; refuse sizes that give none or an incomplete one only."""
    if size == 0:
        raise TaskError("train_data is empty: it has 0 samples.", hint="Check the path or the filter of the dataset.")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    if batch_size > size:
        raise ConfigError(
            f"batch_size is {batch_size}, but train_data has only {size} samples.",
            hint=f"Use a batch_size of at most {size}.",
        )
    return size // batch_size if drop_last else -(-size // batch_size)


@contextmanager
def keyed_rng(*parts: int) -> Iterator[None]:
    """Seed the CPU generators of torch, Python and NumPy from `parts` inside, restore them after: about 15 us."""
    seed = derive_seed(*parts)
    torch_state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        with host_seeded(seed, seed % 2**_NUMPY_SEED_BITS):
            yield
    finally:
        torch.set_rng_state(torch_state)
