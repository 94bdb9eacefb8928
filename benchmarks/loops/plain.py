"""The loop of torch's own tutorials. It loses the run at the first non-finite gradient.

Source: docs.pytorch.org/tutorials, "Optimizing Model Parameters" and "Automatic Mixed Precision".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from loops import MAX_NORM, Batches
from subjects import Subject


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Take the tutorials' step on every batch."""
    take_step = make_step(subject, precision, model)
    for batch in batches:
        take_step(batch)


def make_step(subject: Subject, precision: str, model: nn.Module) -> Callable[[Any], None]:
    """Return the body of the loop: forward, backward, clipping, optimizer, LR."""
    optimizer = subject.optimizer(model)
    scheduler = subject.schedule(optimizer)
    forward = _forward(subject, precision)

    def take_step(batch: Any) -> None:
        optimizer.zero_grad()
        loss = forward(model, batch)
        loss.backward()
        clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        scheduler.step()

    return take_step


def _forward(subject: Subject, precision: str) -> Callable[[nn.Module, Any], Tensor]:
    """Return the loss of a batch as the tutorials take it: a new autocast context for each forward, none in fp32."""

    def forward(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return subject.loss(model, batch)

    return subject.loss if precision == "fp32" else forward
