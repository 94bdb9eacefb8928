"""Lightning Fabric: the plain loop with Fabric's setup, backward and clipping.

Source: lightning.ai/docs/fabric, "Convert PyTorch code to Fabric" and "Fabric Methods" (clip_gradients). Its check of
the norm, which waits for the device, is off (`error_if_nonfinite`), because this row is to be as fast as Fabric can be.
"""

from lightning.fabric import Fabric
from torch import nn

from loops import MAX_NORM, Batches
from subjects import Subject

PRECISIONS = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Train with Fabric."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISIONS[precision])
    raw_optimizer = subject.optimizer(model)
    scheduler = subject.schedule(raw_optimizer)
    wrapped, optimizer = fabric.setup(model, raw_optimizer)
    for batch in batches:
        optimizer.zero_grad()
        loss = subject.loss(wrapped, batch)
        fabric.backward(loss)
        fabric.clip_gradients(wrapped, optimizer, max_norm=MAX_NORM, error_if_nonfinite=False)
        optimizer.step()
        scheduler.step()
