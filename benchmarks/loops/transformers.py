"""The Hugging Face Trainer.

Source: huggingface.co/docs/transformers, "Trainer" (methods to override: `get_train_dataloader`, `compute_loss`) and
"TrainingArguments": strategies "no", `report_to` "none", `disable_tqdm`; `logging_nan_inf_filter` off, because it reads
the loss at each step; `loss_is_scaled_for_ga` on, which spares a division and is right where nothing is accumulated.
"""

from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from loops import MAX_NORM, Batches
from subjects import Subject


class ReadyBatches(Trainer):
    """A Trainer that takes ready batches and a subject's loss."""

    loss_is_scaled_for_ga = True

    def __init__(self, subject: Subject, batches: Batches, **options: Any) -> None:
        super().__init__(**options)
        self.subject, self.batches = subject, batches

    def get_train_dataloader(self) -> Any:
        # The Trainer looks for "labels" in each batch, which a bare tensor does not allow.
        return ({"batch": batch} for batch in self.batches)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        return self.subject.loss(model, inputs["batch"])


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Train with everything off that may be."""
    optimizer = subject.optimizer(model)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=precision == "bf16-mixed",
            max_steps=len(batches),
            max_grad_norm=MAX_NORM,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        schedule = subject.schedule(optimizer)
        trainer = ReadyBatches(subject, batches, model=model, args=arguments, optimizers=(optimizer, schedule))
        # Stands in for the progress bar and prints a summary.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
