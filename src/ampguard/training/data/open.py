"""Sort a Task's data into kinds and open it: for training at any position, for validation in order."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from torch.utils.data import IterableDataset, default_collate

from ampguard.errors import TaskError
from ampguard.task import Batch, Task
from ampguard.training.data.base import TrainData
from ampguard.training.data.sampled import Collate, SampledData, is_samples, selects, take_apart, warn_of_sampler
from ampguard.training.data.sampler import PositionSampler, derive_seed, keyed_rng
from ampguard.training.data.streamed import StreamedData, gather

_VALIDATION = (0, -1)
"""Stand where training has its seed and epoch: validation is the same in every run and epoch."""

_END = object()


def open_train_data(task: Task, *, batch_size: int | None, seed: int, workers: int | None = None) -> TrainData:
    """Return a Task's training data, ready to be read at any (epoch, position).

    Args:
        task: Its `train_data` and `collate` are used.
        batch_size: Samples in an optimizer step; None: the DataLoader's own, else 32, or all samples if they are fewer.
        seed: Seed of the run.
        workers: Processes that fetch batches; None: the DataLoader's own, else 0. The batches are the same.

    Raises:
        TaskError: There is no data, or data of no known kind.
        ConfigError: `batch_size` is below 1, or larger than the dataset.
    """
    data = task.train_data
    if is_samples(data):
        warn_of_sampler(data)
        samples = take_apart(data, task.collate, workers)
        return SampledData(samples, batch_size=samples.resolve(batch_size), seed=seed)
    return StreamedData(_stream(data, task.collate, batch_size, "train_data"), batch_size=batch_size, seed=seed)


def val_batches(task: Task, batch_size: int | None, *, workers: int | None = None) -> Iterator[Batch]:
    """Yield the validation batches in order; none where the Task has no `val_data`.

    A DataLoader with a sampler that selects (a subset, weights) is read as it is: its batches, its order.

    Args:
        task: Its `val_data` and `collate` are used.
        batch_size: Samples in a batch, as many as there are at most; None: the DataLoader's own, else 32.
        workers: Processes that fetch batches; None: the DataLoader's own, else 0.

    Raises:
        TaskError: `val_data` is empty, an iterator that has been read already, or of no known kind.
        ConfigError: `batch_size` is below 1.
    """
    if task.val_data is None:
        return
    opened = _open_val(task, batch_size, workers)
    with keyed_rng(*_VALIDATION):
        batches = iter(opened)
    for position in count():
        with keyed_rng(*_VALIDATION, position):
            batch = next(batches, _END)
        if batch is _END:
            break
        yield batch
    if position == 0:
        raise TaskError(
            f"val_data ({type(task.val_data).__name__}) yielded no batch.",
            hint="Give a list or an object whose __iter__ starts afresh: validation reads it again and again. "
            "None: no validation.",
        )


def _open_val(task: Task, batch_size: int | None, workers: int | None) -> Iterable[Batch]:
    data = task.val_data
    if not is_samples(data) or selects(data):
        return _stream(data, task.collate, batch_size, "val_data")
    samples = take_apart(data, task.collate, workers)
    if len(samples) == 0:
        return ()
    size = min(samples.resolve(batch_size), len(samples))
    seed, epoch = _VALIDATION
    sampler = PositionSampler(len(samples), size, seed=seed, epoch=epoch, drop_last=samples.drop_last, shuffle=False)
    return samples.loader(sampler, derive_seed(*_VALIDATION))


def _stream(data: Any, collate: Collate | None, batch_size: int | None, name: str) -> Iterable[Batch]:
    if isinstance(data, IterableDataset):
        return gather(data, collate or default_collate, batch_size)
    if not isinstance(data, Iterable):
        raise TaskError(
            f"{name} is a {type(data).__name__}.",
            hint="Give a torch Dataset, a DataLoader, or an iterable of ready batches.",
        )
    return data
