"""An iterable of ready batches: its own batch size and order, read from the start of each epoch.

Each batch is drawn under random numbers keyed by (seed, epoch, position), so that an iterable that shuffles or
augments with the global generators yields the same batches in every process. On resume, an iterable with `state_dict`
and `load_state_dict` goes on exactly; any other is read again from the start of its epoch up to the position, and a
log message says so. If it has `set_epoch`, that is called with each epoch.

Left out: iterables whose epochs differ by something else (a generator of their own that is never saved); they need
`state_dict` or `set_epoch` for an exact resume.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from ampguard.errors import ConfigError, TaskError
from ampguard.task import Batch
from ampguard.training.data.base import TrainData
from ampguard.training.data.nested import leading
from ampguard.training.data.sampled import BATCH_SIZE, Collate
from ampguard.training.data.sampler import keyed_rng

log = logging.getLogger("ampguard.training")

_END = object()


class Gathered:
    """The samples of an IterableDataset as batches; the last one may be short. Its state is the dataset's own."""

    def __init__(self, dataset: Iterable[Any], collate: Collate, batch_size: int) -> None:
        self._dataset, self._collate, self._batch_size = dataset, collate, batch_size

    def __iter__(self) -> Iterator[Batch]:
        samples = iter(self._dataset)
        while chunk := list(islice(samples, self._batch_size)):
            yield self._collate(chunk)

    def __getattr__(self, name: str) -> Any:
        if name in ("state_dict", "load_state_dict", "set_epoch"):
            return getattr(self._dataset, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class StreamedData(TrainData):
    """Training data from an iterable of ready batches.

    Args:
        stream: The iterable.
        batch_size: What was configured; a first batch of another size is said in a WARNING, and trained on.
        seed: Seed of the run.
    """

    def __init__(self, stream: Iterable[Batch], *, batch_size: int | None, seed: int) -> None:
        self._stream, self._seed = stream, seed
        self._configured = batch_size
        self._kind = type(stream).__name__
        self._stateful = hasattr(stream, "state_dict") and hasattr(stream, "load_state_dict")
        self._restored = False
        self._at_start = _unread(stream)
        self._opened = False
        self._read_once = isinstance(stream, Iterator) and not self._stateful
        self.batch_size = None
        self.batches_per_epoch = None if isinstance(stream, Iterator) else _length(stream)

    def batches(self, epoch: int, position: int = 0) -> Iterator[Batch]:  # noqa: D102
        restored, self._restored = self._restored, False
        if not restored:
            self._allow_reading(epoch, position)
        return self._from(epoch, position, restored=restored)

    def peek(self) -> Batch:  # noqa: D102
        state, restored = self.state_dict(), self._restored
        batch = next(self._read(0, 0), _END)
        if batch is _END:
            raise _no_batch()
        if self._read_once:
            self._stream = chain([batch], self._stream)
        elif self._stateful:
            self.load_state_dict(state)
            self._restored = restored
        return batch

    def again(self, epoch: int, position: int) -> Batch:  # noqa: D102
        del epoch
        if type(self._stream) not in (list, tuple):
            # A second iterator may share what it reads from with the first: a file, a shuffle buffer, an epoch.
            raise TaskError(
                f"train_data is a {self._kind}, which is read in order: a batch of it cannot be read again while the "
                "run reads on.",
                hint="Give a dataset with __getitem__ and __len__, or a list of batches.",
            )
        return self._stream[position]  # type: ignore[index]

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"stream": self._stream.state_dict()} if self._stateful else {}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        if self._stateful and "stream" in state:
            self._stream.load_state_dict(state["stream"])  # type: ignore[attr-defined]
            self._restored = True

    def _from(self, epoch: int, position: int, *, restored: bool) -> Iterator[Batch]:
        at = position if restored else 0
        for batch in self._read(epoch, at):
            if at == 0:
                self._compare_size(batch)
            if at >= position:
                yield batch
            at += 1
        if restored and at == 0:
            # The state was taken when the epoch before had been read to its end.
            yield from self._from(epoch, 0, restored=False)
        elif at == 0:
            raise _no_batch()
        elif at < position:
            raise TaskError(
                f"train_data ended after {at} batches, but the run stood at batch {position} of its epoch.",
                hint="The data differ from those of the run that is resumed.",
            )

    def _read(self, epoch: int, position: int) -> Iterator[Batch]:
        if type(self._stream) in (list, tuple):
            # Nothing is drawn from a list, and keying costs more than a small model's step.
            yield from self._stream[position:]  # type: ignore[index]
            return
        if hasattr(self._stream, "set_epoch"):
            self._stream.set_epoch(epoch)
        with keyed_rng(self._seed, epoch):
            iterator = iter(self._stream)
        while True:
            with keyed_rng(self._seed, epoch, position):
                batch = next(iterator, _END)
            if batch is _END:
                return
            yield batch
            position += 1

    def _allow_reading(self, epoch: int, position: int) -> None:
        at_start = not self._opened and (self._at_start or position == 0)
        if self._read_once and (epoch > 0 or not at_start):
            raise TaskError(
                f"train_data is a {self._kind}, which can be read only once, and batch {position} of "
                f"epoch {epoch + 1} needs it from the start again.",
                hint="Give an object whose __iter__ starts afresh (a class or a list), or one with state_dict and "
                "load_state_dict.",
            )
        self._opened = True
        if position > 0:
            log.warning(
                "train_data (%s) has no saved state: it is read again from the start of epoch %d up to batch %d.",
                self._kind,
                epoch + 1,
                position,
            )

    def _compare_size(self, batch: Batch) -> None:
        if self._configured is not None and leading(batch) != self._configured:
            log.warning(
                "train_data yields ready batches of %d samples: each is one step, and batch_size=%d is not used.",
                leading(batch),
                self._configured,
            )
            self._configured = None


def gather(data: Iterable[Any], collate: Collate, batch_size: int | None) -> Gathered:
    """Return an IterableDataset's samples as batches."""
    size = BATCH_SIZE if batch_size is None else batch_size
    if size < 1:
        raise ConfigError(f"batch_size is {size}; the samples of {type(data).__name__} need one of at least 1.")
    return Gathered(data, collate, size)


def _no_batch() -> TaskError:
    return TaskError(
        "train_data is empty: it yielded no batch.",
        hint="Check the path or the filter of the data; an iterator can be read only once, a list again and again.",
    )


def _unread(stream: Iterable[Batch]) -> bool:
    """Return whether a one-shot stream is known to stand at its start: only generators tell."""
    return inspect.isgenerator(stream) and inspect.getgeneratorstate(stream) == inspect.GEN_CREATED


def _length(stream: Any) -> int | None:
    try:
        return len(stream)
    except TypeError:
        # No __len__, or a DataLoader over an IterableDataset that has none: only reading tells.
        return None
