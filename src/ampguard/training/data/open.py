"""Sort a Task's data into kinds and open it: for training at any position, for validation in order."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import default_collate as torch_collate

from ampguard.errors import ConfigError, TaskError
from ampguard.task import Batch, Task
from ampguard.training.data.base import TrainData
from ampguard.training.data.sampled import Collate, SampledData, is_samples, take_apart, warn_of_sampler
from ampguard.training.data.sampler import PositionSampler, derive_seed, keyed_rng
from ampguard.training.data.streamed import StreamedData, gather

_VALIDATION = (0, -1)
"""Stand where training has its seed and epoch: validation is the same in every run and epoch."""

_END = object()


def open_train_data(task: Task, *, batch_size: int | None, seed: int, workers: int | None = None) -> TrainData:
    """Return a Task's training data, ready to be read at any (epoch, position).

    Args:
        task: Its `train_data` and `collate` are used.
        batch_size: Samples in an optimizer step; None: the DataLoader's own.
        seed: Seed of the run.
        workers: Processes that fetch batches; None: the DataLoader's own, else 0. The batches are the same.

    Raises:
        TaskError: There is no data, or data of no known kind.
        ConfigError: `batch_size` is missing, below 1, or larger than the dataset.
    """
    data = task.train_data
    if is_samples(data):
        warn_of_sampler(data, name="train_data", kept=RandomSampler)
        return SampledData(take_apart(data, task.collate, workers), batch_size=batch_size, seed=seed)
    return StreamedData(_stream(data, task.collate, batch_size, "train_data"), batch_size=batch_size, seed=seed)


def val_batches(
    task: Task, batch_size: int | None, *, workers: int | None = None
) -> Iterator[Batch]:
    """Yield the validation batches in order; nothing where the Task has no `val_data`.

    Args:
        task: Its `val_data` and `collate` are used.
        batch_size: Samples in a batch, as many as there are at most; None: the DataLoader's own, else 32.
        workers: Processes that fetch batches; None: the DataLoader's own, else 0.

    Raises:
        TaskError: `val_data` is empty, or an iterator that has been read already.
    """
    if task.val_data is None:
        return
    position = 0
    batches = _open_val(task, batch_size, workers)
    while True:
        with keyed_rng(*_VALIDATION, position):
            batch = next(batches, _END)
        if batch is _END:
            break
        yield batch
        position += 1
    if position == 0:
        raise _empty(task.val_data)
