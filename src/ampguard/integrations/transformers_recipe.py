"""What TrainingArguments say of training, as fields of a Task: its defaults, its optimizer and its schedule.

Left out: what they say of logging, saving, evaluating and distributing; ampguard has options of its own for that.
"""

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import IterableDataset

from ampguard.errors import MissingExtraError, TaskError

try:
    from transformers import Trainer, get_scheduler
except ModuleNotFoundError as error:
    if error.name not in ("transformers", "accelerate"):
        raise
    raise MissingExtraError(str(error.name), "hf", "Task.from_hf") from error


def recipe(args: Any, train: Any, optimizer_cls_and_kwargs: Any = None) -> dict[str, Any]:
    """Return {"defaults", "optimizer", "schedule"} of a Task.

    Args:
        args: TrainingArguments; precision is a default only where they name one.
        train: The training data; with its length, epochs become steps.
        optimizer_cls_and_kwargs: As a Trainer takes it: before what `args` says of the optimizer.

    Raises:
        TaskError: The length of the data is unknown, and so is max_steps.
    """
    steps, batch = _steps(args, train)
    micro = args.per_device_train_batch_size
    defaults = {
        "lr": args.learning_rate,
        "steps": steps,
        "batch_size": batch,
        "micro_batch_size": micro if micro < batch else None,
        "val_batch_size": args.per_device_eval_batch_size,
        "max_grad_norm": args.max_grad_norm,
        "seed": args.seed,
        "precision": {"fp16": "fp16-mixed", "bf16": "bf16-mixed"}.get(args.mixed_precision),
        "activation_checkpointing": args.gradient_checkpointing or None,
        "compile": args.torch_compile or None,
    }

    def optimizer(model: nn.Module, lr: float) -> Optimizer:
        return _optimizer(args, optimizer_cls_and_kwargs, model, lr)

    def schedule(optimizer: Optimizer) -> LRScheduler:
        made: LRScheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        return made

    known = {name: value for name, value in defaults.items() if value is not None}
    return {"defaults": known, "optimizer": optimizer, "schedule": schedule}


def _steps(args: Any, train: Any) -> tuple[int, int]:
    """Return (steps of the run, samples in a step) as the Trainer counts them on one device."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if isinstance(train, IterableDataset) or not hasattr(train, "__len__"):
        if args.max_steps <= 0:
            raise TaskError("the length of the training data is unknown.", hint="Set max_steps in TrainingArguments.")
        return args.max_steps, batch
    batch = min(batch, len(train))
    if args.max_steps > 0:
        return args.max_steps, batch
    return math.ceil(args.num_train_epochs * math.ceil(len(train) / batch)), batch


def _optimizer(args: Any, cls_and_kwargs: Any, model: nn.Module, lr: float) -> Optimizer:
    """Return the optimizer that a Trainer would make: its class, its options, its choice of what decays."""
    cls, options = cls_and_kwargs or Trainer.get_optimizer_cls_and_kwargs(args, model)
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)) or {"params", "model", "optimizer_dict"} & set(
        options
    ):
        raise TaskError(
            f"the optimizer {args.optim!r} steps inside the backward pass or makes several; a Task needs one.",
            hint="Use optim='adamw_torch_fused'.",
        )
    # The method does not look at its Trainer.
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": args.weight_decay},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    made: Optimizer = cls([group for group in groups if group["params"]], **{**options, "lr": lr})
    return made
