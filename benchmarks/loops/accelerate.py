"""Hugging Face Accelerate: the plain loop with an Accelerator's prepare, backward and clipping.

Source: huggingface.co/docs/accelerate, "Add Accelerate to your code" (the loop, clipping, mixed precision).
"""

from accelerate import Accelerator
from torch import nn

from loops import MAX_NORM, Batches
from subjects import Subject

PRECISIONS = {"fp32": "no", "bf16-mixed": "bf16"}


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Train with an Accelerator."""
    accelerator = Accelerator(cpu=True, mixed_precision=PRECISIONS[precision])
    raw_optimizer = subject.optimizer(model)
    prepared, optimizer, scheduler = accelerator.prepare(model, raw_optimizer, subject.schedule(raw_optimizer))
    for batch in batches:
        optimizer.zero_grad()
        loss = subject.loss(prepared, batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), MAX_NORM)
        optimizer.step()
        scheduler.step()
