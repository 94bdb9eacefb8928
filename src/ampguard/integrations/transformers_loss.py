"""The loss of a Hugging Face model on a batch, with the number of labels that it is a mean over.

transformers names the kind of a model's loss (`loss_type`). For the kinds that are a mean over labels that are not
-100 the number is counted here; of any other loss, and of one that somebody wrote himself, only the mean is known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ampguard.errors import MissingExtraError, TaskError
from ampguard.task import Batch, LossSum, Sum

try:
    from transformers import Trainer
    from transformers.loss import loss_utils
    from transformers.trainer_utils import unwrap_peft_model
except ModuleNotFoundError as error:
    if error.name not in ("transformers", "accelerate"):
        raise
    raise MissingExtraError(str(error.name), "hf", "Task.from_hf") from error

_IGNORED = -100
"""The label that does not count. Source: torch.nn.CrossEntropyLoss, ignore_index."""

_OVER_LABELS = (
    loss_utils.ForCausalLMLoss,
    loss_utils.ForMaskedLMLoss,
    loss_utils.ForTokenClassification,
    loss_utils.ForSequenceClassificationLoss,
)
"""Losses of transformers that are a mean over labels."""

Compute = Callable[[nn.Module, Batch], tuple[Tensor, Any]]
"""Returns the loss of a batch, and what the model returned."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss and metrics of a batch."""

    compute: Compute
    over_labels: bool
    """Whether the loss is a mean over the labels that are not -100."""
    shifts: bool
    """Whether position t is judged by label t + 1."""

    @classmethod
    def of(cls, model: nn.Module, compute: Compute | None = None) -> "Objective":
        """Return the objective that a model brings; `compute`: a mean over the same labels, in place of its own."""
        base = unwrap_peft_model(model)
        kind = loss_utils.LOSS_MAPPING.get(getattr(base, "loss_type", None))
        if kind is None and "LMHead" in type(base).__name__:
            kind = loss_utils.ForCausalLMLoss
        # An encoder-decoder shifts its inputs instead.
        decodes = getattr(getattr(base, "config", None), "is_encoder_decoder", False)
        return cls(
            compute=compute or models_own,
            over_labels=kind in _OVER_LABELS,
            shifts=kind is loss_utils.ForCausalLMLoss and not decodes,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor | LossSum:
        """Return the loss of a batch. Sync: none."""
        loss, _ = self.compute(model, batch)
        count = self._labels_in(batch)
        return loss if count is None else LossSum(_total(loss, count), count)

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Sum]:
        """Return the loss, and the share of labels that the logits name, where the labels are classes."""
        loss, outputs = self.compute(model, batch)
        count = self._labels_in(batch)
        if count is None:
            samples = len(next(value for value in batch.values() if isinstance(value, Tensor)))
            return {"loss": Sum(loss * samples, samples)}
        return {"loss": Sum(_total(loss, count), count), **self._accuracy(outputs, batch)}

    def _targets(self, batch: Batch) -> Tensor | None:
        labels: Tensor | None = batch.get("shift_labels")
        if labels is None:
            labels = batch.get("labels")
            return labels[..., 1:] if self.shifts and labels is not None else labels
        return labels

    def _labels_in(self, batch: Batch) -> Tensor | None:
        targets = self._targets(batch)
        if targets is None or not self.over_labels:
            return None
        if targets.is_floating_point():
            return torch.full((), len(targets), device=targets.device)
        return (targets != _IGNORED).sum()

    def _accuracy(self, outputs: Any, batch: Batch) -> dict[str, Sum]:
        targets, logits = self._targets(batch), outputs.get("logits") if isinstance(outputs, Mapping) else None
        if targets is None or logits is None or targets.is_floating_point() or logits.dim() != targets.dim() + 1:
            return {}
        if self.shifts and "shift_labels" not in batch:
            logits = logits[..., :-1, :]
        counted = targets != _IGNORED
        return {"accuracy": Sum(((logits.argmax(-1) == targets) & counted).sum(), counted.sum())}


def models_own(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Return the loss that the model computes itself, and its outputs.

    Raises:
        TaskError: The batch is no dict, or the model returned no loss.
    """
    if not isinstance(batch, Mapping):
        raise TaskError(f"a batch is a {type(batch).__name__}; a Hugging Face model takes dicts.")
    outputs = model(**batch)
    if isinstance(outputs, tuple) and outputs:
        return outputs[0], outputs
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
    if loss is None:
        told = f"only {', '.join(outputs)}" if isinstance(outputs, Mapping) else f"but a {type(outputs).__name__}"
        raise TaskError(
            f"the model {type(model).__name__} returned no loss, {told}; the batch has {', '.join(batch)}.",
            hint="Let the samples have `labels`, and use a class with a head, such as AutoModelForCausalLM.",
        )
    return loss, outputs


def trainers_objective(trainer: Any) -> Objective:
    """Return the objective of a Trainer: its own loss where it has one, else the model's."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        # A loss function of the user's divides by the number of labels, as the Trainer tells it.
        counted = trainer.compute_loss_func is not None
        count = trainer._get_num_items_in_batch([batch], next(model.parameters()).device) if counted else None
        number = {"num_items_in_batch": count} if counted else {}
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True, **number)
        return loss, outputs

    if type(trainer).compute_loss is not Trainer.compute_loss or trainer.compute_loss_func is not None:
        return Objective(compute=compute, over_labels=False, shifts=False)
    return Objective.of(trainer.model, compute if trainer.label_smoother is not None else None)


def _total(loss: Tensor, count: Tensor) -> Tensor:
    # The mean over no label is NaN; their total is 0.
    return torch.where(count > 0, loss * count, 0.0)
