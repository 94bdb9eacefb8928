"""The Task: the one noun that every verb takes. A model, its loss and its data, as plain callables.

What people already have becomes a Task through a door: `Task.from_lightning`, `Task.from_hf`. A door stands in
`integrations`, far above this file; it is named here and opened at the call, so that nothing is imported upwards.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from ampguard.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import DataLoader, Dataset

Batch: TypeAlias = Any
"""What the data yields: tensors, or tensors nested in dicts, lists, tuples and dataclasses."""


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss as total and count, so that accumulation over micro-batches and ranks is exact.

    The step's loss is sum(total) / sum(count), whatever the number and length of the micro-batches; a mean
    of means is not.
    """

    total: "Tensor"
    """Sum of the loss over the batch's elements, shape (), floating point, connected to the graph."""
    count: "int | Tensor"
    """Number of elements summed (samples, tokens), > 0; an int, or a tensor of shape ()."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A metric of one batch as total and count; the metric is sum(total) / sum(count) over all batches."""

    total: "Tensor | float"
    count: "Tensor | float"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train: everything that is the user's, nothing that is ampguard's."""

    model: "Callable[[], nn.Module]"
    """Returns a fresh model at each call, drawn from torch's global RNG."""
    loss: "Callable[[nn.Module, Batch], Tensor | LossSum]"
    """Loss of a batch: a scalar mean, or LossSum(total, count), which is exact under accumulation."""
    train_data: "Dataset[Any] | DataLoader[Any] | Iterable[Batch]"
    """A dataset yields samples, an iterable ready batches; a DataLoader is rebuilt with our sampler."""
    val_data: "Dataset[Any] | DataLoader[Any] | Iterable[Batch] | None" = None
    """Validation data, of the same kinds; None: no validation."""
    evaluate: "Callable[[nn.Module, Batch], Mapping[str, Sum]] | None" = None
    """All metrics of a batch from one forward; a metric "loss" replaces the default val/loss."""
    optimizer: "Callable[[nn.Module, float], Optimizer] | None" = None
    """(model, lr) -> optimizer; None: fused AdamW, weight decay on matrices only."""
    schedule: "Callable[[Optimizer], LRScheduler] | None" = None
    """The Task's own LR schedule, stepped once for each applied step; None: the training config's."""
    collate: "Callable[[list[Any]], Batch] | None" = None
    """Samples -> batch; None: torch's default_collate."""
    count: "Callable[[Batch], Mapping[str, int]] | None" = None
    """{"samples": n, "tokens": m} of a batch; None: leading dimension of the first tensor."""
    name: str
    """Short name, [a-z0-9_]; names the run folder."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Training options that suit this Task, by TrainConfig field: lr, steps, batch_size ..."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the record: SHA-256 of the data, entropy baselines, sizes. Plain JSON values."""

    def __post_init__(self) -> None:
        """Refuse what is no function where one is meant: a model that is built already, most of all."""
        if not callable(self.model) or (hasattr(self.model, "forward") and not isinstance(self.model, type)):
            raise TaskError(
                f"Task {self.name!r}: model is a {type(self.model).__name__}, not a function that makes one.",
                hint="Each run starts from a fresh model: model=lambda: Net(...).",
            )
        if not callable(self.loss):
            raise TaskError(
                f"Task {self.name!r}: loss is {self.loss!r}, not a function.",
                hint="Give loss=lambda model, batch: ..., which returns a scalar tensor or a LossSum.",
            )

    @classmethod
    def from_lightning(cls, module: Any, datamodule: Any = None, **options: Any) -> "Task":
        """Return the Task of a LightningModule: its steps, optimizer, schedule and data. No Trainer runs.

        Args:
            module: The LightningModule class, a function that returns one, or an instance (then each model is a copy).
            datamodule: A LightningDataModule, its class, or None: the module's own dataloaders.
            options: Arguments of the class or function.

        Raises:
            TaskError: The module does what a Task cannot: manual optimization, several optimizers, its own backward.
            MissingExtraError: Lightning is not installed.
        """
        task: Task = _door("lightning_task")(module, datamodule, **options)
        return task

    @classmethod
    def from_hf(cls, model: Any, dataset: Any = None, args: Any = None, **options: Any) -> "Task":
        """Return the Task of a Hugging Face model and dataset, with what `args` says of training.

        Args:
            model: A PreTrainedModel (then each model is a copy), a function that returns one, or a Trainer, whose
                model, data, collator and arguments are taken.
            dataset: Training data, or a mapping {"train", "validation"}.
            args: TrainingArguments; None: the defaults of ampguard.
            options: eval_dataset, data_collator, processing_class (a tokenizer, which pads), name.

        Raises:
            TaskError: There is no data, or no model; later, from the Task's loss: the model returns no loss.
            MissingExtraError: transformers is not installed.
        """
        task: Task = _door("transformers_task")(model, dataset, args, **options)
        return task


def _door(library: str) -> Callable[..., Any]:
    door: Callable[..., Any] = import_module(f"ampguard.integrations.{library}").make_task
    return door
