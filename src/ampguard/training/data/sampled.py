"""A dataset with an order, read through our own sampler.

A torch DataLoader fetches the batches, in this process or in workers; it gets a batch sampler that names each batch
(`BatchKey`), and a dataset that turns a name into the collated batch (`Fetch`). What a DataLoader of the user brings
is kept (dataset, collate function, workers, pinning, `drop_last`), but not its sampler.

Left out: the sampler of a DataLoader. One that selects is refused; a WARNING names one that only orders.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from ampguard.errors import ConfigError, TaskError
from ampguard.task import Batch
from ampguard.training.data.base import TrainData
from ampguard.training.data.sampler import BatchKey, PositionSampler, batches_in, derive_seed, keyed_rng

log = logging.getLogger("ampguard.training")

Collate = Callable[[list[Any]], Batch]

BATCH_SIZE = 32
"""Samples in a batch where neither the caller nor the data says. Source: Masters and Luschi 2018 (arXiv:1804.07612)."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A dataset and how its samples become batches."""

    dataset: Any
    """Has `__getitem__` and `__len__`."""
    collate: Collate = default_collate
    """Samples -> batch."""
    batch_size: int | None = None
    """A DataLoader's own batch size."""
    drop_last: bool = False
    """Whether a short last batch is left out."""
    workers: int = 0
    """Processes that fetch batches; 0: this one."""
    loader_options: Mapping[str, Any] = field(default_factory=dict)
    """Other options of a DataLoader that are kept."""

    def __len__(self) -> int:
        try:
            return len(self.dataset)
        except TypeError as error:
            raise TaskError(
                f"the dataset {type(self.dataset).__name__} has no length.",
                hint="Give it __len__, or make it a torch.utils.data.IterableDataset.",
            ) from error

    def resolve(self, batch_size: int | None) -> int:
        """Return the configured batch size, else the DataLoader's own, else 32 or as many samples as there are."""
        size = self.batch_size if batch_size is None else batch_size
        if size is None:
            return max(1, min(BATCH_SIZE, len(self)))
        if size < 1:
            raise ConfigError(f"batch_size is {size}; it must be at least 1.")
        return size

    def loader(self, sampler: PositionSampler, generator_seed: int) -> "DataLoader[Batch]":
        """Return a DataLoader over the sampler's batches, with a generator of its own."""
        return DataLoader(
            Fetch(self.dataset, self.collate),
            # torch types a batch as a list of indices, but hands on whatever the sampler yields.
            batch_sampler=cast(Any, sampler),
            collate_fn=_as_is,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(generator_seed),
            **self.loader_options,
        )


def is_samples(data: Any) -> bool:
    """Return whether the data is a dataset with an order, bare or in a DataLoader that makes batches of it."""
    if isinstance(data, DataLoader):
        return data.batch_sampler is not None and not isinstance(data.dataset, IterableDataset)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return False
    # Hugging Face datasets are no torch Datasets; fetching many at once is what tells them from a list of batches.
    return isinstance(data, Dataset) or hasattr(data, "__getitems__") or not hasattr(data, "__iter__")


def take_apart(data: Any, collate: Collate | None, workers: int | None) -> Samples:
    """Return what is kept of a dataset or a DataLoader; `collate` and `workers` go before the DataLoader's own."""
    if not isinstance(data, DataLoader):
        return Samples(dataset=data, collate=collate or default_collate, workers=workers or 0)
    return Samples(
        dataset=data.dataset,
        collate=collate or data.collate_fn,
        batch_size=data.batch_size,
        drop_last=data.drop_last,
        workers=data.num_workers if workers is None else workers,
        loader_options={
            "pin_memory": data.pin_memory,
            "worker_init_fn": data.worker_init_fn,
            "multiprocessing_context": data.multiprocessing_context,
        },
    )


def selects(data: Any) -> bool:
    """Return whether a DataLoader's sampler does more than read every sample once, in order or shuffled."""
    if not isinstance(data, DataLoader):
        return False
    sampler: Any = data.sampler
    plain = type(data.batch_sampler) is BatchSampler and type(sampler) in (SequentialSampler, RandomSampler)
    return not plain or getattr(sampler, "replacement", False) or len(sampler) != len(cast(Any, data.dataset))


def warn_of_sampler(data: Any) -> None:
    """Say that the order of a training DataLoader is not used, unless it shuffles as ours does.

    Raises:
        TaskError: Its sampler selects samples or makes batches of its own, which another order would undo.
    """
    if not isinstance(data, DataLoader):
        return
    sampler = data.sampler if type(data.batch_sampler) is BatchSampler else data.batch_sampler
    if type(sampler) is RandomSampler and not selects(data):
        return
    if selects(data):
        raise TaskError(
            f"train_data is a DataLoader with a {type(sampler).__name__}, which selects samples or makes its own "
            "batches; ampguard shuffles each epoch itself and would undo that.",
            hint="Give torch.utils.data.Subset(dataset, indices) for a part, or an iterable of ready batches for an "
            "order of your own.",
        )
    log.warning(
        "train_data is a DataLoader with a %s, which is not used: ampguard shuffles each epoch itself. To keep an "
        "order of your own, give an iterable of ready batches.",
        type(sampler).__name__,
    )


class Fetch(Dataset[Any]):
    """Turns the name of a batch into the batch, under random numbers that belong to its position.

    Collating is part of it, because masking and mixing are often done there. In a worker, `get_worker_info().dataset`
    is this object; the user's dataset is its `dataset`.
    """

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset = dataset
        self._collate = collate

    def __getitems__(self, key: BatchKey) -> Batch:
        with keyed_rng(key.seed, key.epoch, key.position):
            if hasattr(self.dataset, "__getitems__"):
                return self._collate(self.dataset.__getitems__(key.indices))
            return self._collate([self.dataset[index] for index in key.indices])


class SampledData(TrainData):
    """Training data from a dataset.

    Args:
        samples: The dataset and how to read it.
        batch_size: Samples in an optimizer step.
        seed: Seed of the run.
    """

    def __init__(self, samples: Samples, *, batch_size: int, seed: int) -> None:
        self._samples, self._seed = samples, seed
        self._size = batch_size
        self.batch_size = batch_size
        self.batches_per_epoch = batches_in(len(samples), batch_size, drop_last=samples.drop_last)

    def batches(self, epoch: int, position: int = 0) -> Iterator[Batch]:  # noqa: D102
        return iter(self._samples.loader(self._sampler(epoch, position), derive_seed(self._seed, epoch, position)))

    def indices(self, epoch: int, position: int) -> list[int]:  # noqa: D102
        return next(iter(self._sampler(epoch, position))).indices

    def _sampler(self, epoch: int, position: int) -> PositionSampler:
        return PositionSampler(
            len(self._samples),
            self._size,
            seed=self._seed,
            epoch=epoch,
            start=position,
            drop_last=self._samples.drop_last,
        )

    def peek(self) -> Batch:  # noqa: D102
        return next(self.batches(0))

    def again(self, epoch: int, position: int) -> Batch:  # noqa: D102
        # With the same workers: a dataset may need what worker_init_fn gives it.
        return next(self.batches(epoch, position))

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        del state


def _as_is(batch: Batch) -> Batch:
    return batch
