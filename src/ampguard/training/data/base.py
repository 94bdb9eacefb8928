"""The contract of training data: read at any (epoch, position)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from ampguard.task import Batch


class TrainData(ABC):
    """The training batches of a run, each of one optimizer step."""

    batch_size: int | None
    """Samples in a batch; None where the data itself decides."""
    batches_per_epoch: int | None
    """Batches in an epoch; None where only reading tells."""

    @abstractmethod
    def batches(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch (from 0), in order, from a position (from 0) on.

        Raises:
            TaskError: There is no such batch, or data that can be read only once would be read again.
        """

    @abstractmethod
    def peek(self) -> Batch:
        """Return the first batch of the first epoch; it is yielded again when the epoch is read."""

    @abstractmethod
    def again(self, epoch: int, position: int) -> Batch:
        """Return a batch that `batches` has yielded, bit by bit; whoever reads on is not disturbed.

        Raises:
            TaskError: Data of this kind cannot be read again while it is being read.
        """

    def indices(self, epoch: int, position: int) -> list[int]:
        """Return the places in the dataset of a batch's samples, in order; none where the data has no order."""
        del epoch, position
        return []

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what (epoch, position) does not tell: the state of an iterable that has one, else {}."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that `state_dict` returned; the next `batches` goes on from there."""
