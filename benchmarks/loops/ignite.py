"""PyTorch-Ignite: an Engine that calls the plain loop's step.

Source: docs.pytorch.org/ignite, the reference of `ignite.engine.engine.Engine`, "Create a basic trainer". There the
update function returns `loss.item()` for the handlers; it returns nothing here, since nobody listens.
"""

from ignite.engine import Engine
from torch import nn

from loops import Batches
from loops.plain import make_step
from subjects import Subject


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Run an Engine without handlers for one epoch."""
    take_step = make_step(subject, precision, model)
    Engine(lambda _, batch: take_step(batch)).run(batches, max_epochs=1, epoch_length=len(batches))
