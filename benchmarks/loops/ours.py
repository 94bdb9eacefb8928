"""A Guard in a loop of one's own, with clipping and a schedule; every guarantee is on.

Source: the README.
"""

from torch import nn

from ampguard import Guard
from loops import MAX_NORM, Batches
from subjects import Subject


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Train under a Guard."""
    guard = Guard(
        model,
        subject.optimizer(model),
        precision=precision,
        on_unsupported="error",
        max_grad_norm=MAX_NORM,
        schedule=subject.schedule,
    )
    for batch in batches:
        with guard.autocast():
            loss = subject.loss(model, batch)
        guard.backward(loss)
        guard.step()
