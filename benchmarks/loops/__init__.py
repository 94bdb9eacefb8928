"""The loops that bench-overhead compares: the same training, written by hand, with ours, and with each peer.

A loop is one function in a file of its own, named like its row:

    train(subject, precision, model, batches)

It trains `model` in place, one step for each of `batches`, until they end. The clock stands in that iterator
(worker.py), so a Trainer that owns its loop is timed like a `for` statement.

All loops take the subject's fused AdamW and LambdaLR, clip at MAX_NORM, step the LR at each step, and have progress
bar, logging, checkpoints and validation off. Batches come from memory: no row pays for a DataLoader.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from subjects import Subject

MAX_NORM = 1.0
OURS = ("ours", "train")
PEERS = ("ignite", "fabric", "accelerate", "lightning", "transformers")
LOOPS = ("plain", "tuned", *OURS, *PEERS)
"""Every row, in the order of the tables; each is the name of a module here."""


class Batches(Iterator[Any]):
    """Ready batches, to be read once; they know how many they are."""

    def __init__(self, batches: Iterator[Any], count: int) -> None:
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._batches

    def __next__(self) -> Any:
        return next(self._batches)


Loop = Callable[["Subject", str, nn.Module, Batches], None]


def load(name: str) -> Loop:
    """Return the loop of a row; only then is its library imported."""
    loop: Loop = import_module(f"loops.{name}").train
    return loop
