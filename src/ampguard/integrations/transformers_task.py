"""The Task of what a Hugging Face user has: a model and a dataset, or a whole Trainer.

The loss is the model's own (`model(**batch).loss`), or the Trainer's. Where it is a mean over labels it comes as a
LossSum with their number, so that micro-batches add up exactly whatever their padding; else as the mean. What
TrainingArguments say of training becomes defaults of the Task, its optimizer and its schedule.

Left out: a Trainer's own dataloaders, samplers, callbacks and metrics.
"""

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ampguard.errors import MissingExtraError, TaskError
from ampguard.integrations.transformers_loss import Objective, trainers_objective
from ampguard.integrations.transformers_recipe import recipe
from ampguard.task import Batch, Task

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, Trainer, default_data_collator
    from transformers.trainer_utils import RemoveColumnsCollator, unwrap_peft_model
except ModuleNotFoundError as error:
    if error.name not in ("transformers", "accelerate"):
        raise
    raise MissingExtraError(str(error.name), "hf", "Task.from_hf") from error


def make_task(
    model: Any,
    dataset: Any = None,
    args: Any = None,
    *,
    eval_dataset: Any = None,
    data_collator: Any = None,
    processing_class: Any = None,
    name: str | None = None,
) -> Task:
    """Return the Task of a Hugging Face model and dataset. `Task.from_hf` is its public name and says the rest.

    Args:
        model: A module (each model of the Task is a copy), a function that returns one, or a Trainer.
        dataset: A dataset of dicts, a list of dicts, or a mapping {"train", "validation"}.
        args: TrainingArguments.
        eval_dataset: Validation data, where `dataset` does not bring it.
        data_collator: Samples -> batch; None: as a Trainer chooses.
        processing_class: A tokenizer: batches are padded to their longest sample.
        name: Name of the Task; None: the model's class.
    """
    parts = _of_trainer(model) if isinstance(model, Trainer) else _of_model(model, data_collator, processing_class)
    train, val = _sources(dataset, eval_dataset)
    train, val = parts.train if train is None else train, parts.val if val is None else val
    if train is None:
        raise TaskError("there is no training data.", hint="Give a dataset of dicts, or {'train', 'validation'}.")
    args = args or parts.args
    return Task(
        name=name or re.sub(r"[^a-z0-9_]", "_", type(parts.first).__name__.lower()),
        model=parts.build,
        loss=parts.objective.loss,
        evaluate=parts.objective.evaluate,
        train_data=train,
        val_data=val,
        collate=parts.collate if args and not args.remove_unused_columns else _without_unused(parts),
        count=_count,
        **({} if args is None else recipe(args, train, parts.optimizer_cls_and_kwargs)),
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a Task is made of, wherever it comes from."""

    build: Callable[[], nn.Module]
    first: nn.Module
    """A model that `build` has made: its class, its arguments and its kind of loss are looked at."""
    objective: Objective
    collate: Any
    train: Any = None
    val: Any = None
    args: Any = None
    optimizer_cls_and_kwargs: Any = None


def _of_model(model: Any, data_collator: Any, processing_class: Any) -> _Parts:
    build = _factory(model)
    first = build()
    if not isinstance(first, nn.Module):
        raise TaskError(f"the model is a {type(first).__name__}.", hint="Give a torch.nn.Module, or a function of one.")
    pads = isinstance(processing_class, PreTrainedTokenizerBase)
    default = DataCollatorWithPadding(processing_class) if pads else default_data_collator
    return _Parts(build=build, first=first, objective=Objective.of(first), collate=data_collator or default)


def _of_trainer(trainer: Any) -> _Parts:
    if not (_unmade(trainer.optimizer) and _unmade(getattr(trainer.lr_scheduler, "optimizer", None))):
        raise TaskError(
            "the Trainer was given an optimizer or a schedule, which belongs to its own model.",
            hint="Give optimizer_cls_and_kwargs, or say it in TrainingArguments: a Task makes new ones for each run.",
        )
    train, val = _sources(trainer.train_dataset, trainer.eval_dataset)
    return _Parts(
        build=trainer.call_model_init if trainer.model_init is not None else _factory(trainer.model),
        first=trainer.model,
        objective=trainers_objective(trainer),
        collate=trainer.data_collator,
        train=train,
        val=val,
        args=trainer.args,
        optimizer_cls_and_kwargs=trainer.optimizer_cls_and_kwargs,
    )


def _unmade(optimizer: Any) -> bool:
    """Return whether a Trainer's user has made no optimizer: one that `train` made, it has wrapped."""
    return optimizer is None or isinstance(optimizer, AcceleratedOptimizer)


def _factory(model: Any) -> Callable[[], nn.Module]:
    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    if callable(model):
        build: Callable[[], nn.Module] = model
        return build
    raise TaskError(
        f"the model is a {type(model).__name__}.", hint="Give a model, a function that returns one, or a Trainer."
    )


class _Listed(Dataset[Any]):
    """A list of samples: bare, it would be taken for ready batches."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def _sources(dataset: Any, eval_dataset: Any) -> tuple[Any, Any]:
    """Return training and validation data; a list becomes a dataset."""
    if isinstance(dataset, Mapping):
        if "train" not in dataset:
            raise TaskError(
                f"the dataset has the parts {', '.join(dataset) or 'none'}.", allowed=("train", "validation")
            )
        dataset, eval_dataset = dataset["train"], dataset.get("validation", eval_dataset)
    if isinstance(eval_dataset, Mapping):
        raise TaskError(
            f"there are {len(eval_dataset)} validation datasets: {', '.join(eval_dataset)}.", hint="Give one."
        )
    return _as_dataset(dataset), _as_dataset(eval_dataset)


def _as_dataset(data: Any) -> Any:
    return _Listed(data) if isinstance(data, list | tuple) else data


def _without_unused(parts: _Parts) -> Any:
    """Return the collator behind one that drops what `forward` does not name, as a Trainer does."""
    parameters = inspect.signature(unwrap_peft_model(parts.first).forward).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    # default_data_collator makes `labels` of the last two.
    return RemoveColumnsCollator(parts.collate, [*names, "label", "label_ids"]) if names else parts.collate


def _count(batch: Batch) -> dict[str, int]:
    first = next(value for value in batch.values() if hasattr(value, "shape"))
    tokens = {"tokens": batch["input_ids"].numel()} if "input_ids" in batch else {}
    return {"samples": len(first), **tokens}
