"""The Lightning Trainer in barebones mode.

Source: lightning.ai/docs/pytorch, the reference of `Trainer`: barebones "is meant for analyzing the Trainer overhead"
and turns off checkpoints, logger, progress bar, summary, sanity check, profiler and `log()`. The clipping stands in the
LightningModule's hook for it, `configure_gradient_clipping`: with `gradient_clip_val` Lightning refuses a fused
optimizer in bf16-mixed.
"""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from loops import MAX_NORM, Batches
from subjects import Subject

PRECISIONS = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


class Module(LightningModule):
    """A subject's model and loss."""

    def __init__(self, subject: Subject, model: nn.Module) -> None:
        super().__init__()
        self.subject, self.model = subject, model

    def training_step(self, batch: Any, _index: int) -> Tensor:
        return self.subject.loss(self.model, batch)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        clip_grad_norm_(self.model.parameters(), MAX_NORM)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.subject.optimizer(self.model)
        schedule = {"scheduler": self.subject.schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Fit for one epoch."""
    trainer = Trainer(
        barebones=True,
        accelerator="cpu",
        devices=1,
        precision=PRECISIONS[precision],
        max_epochs=1,
        max_steps=len(batches),
    )
    trainer.fit(Module(subject, model), batches)
