"""Make a Task of a LightningModule: what `Task.from_lightning` opens.

The module keeps its steps, its optimizer, its schedule and its data; ampguard has the loop. `batch_idx` counts the
batches since the Task was made. As in a Trainer without options there is no clipping, and without a scheduler of the
module the LR is constant: `--max-grad-norm` and `--schedule` say otherwise.

Left out: what only a Trainer can give. Manual optimization, several optimizers and hooks that change a step are
refused with the reason; other hooks are not called, and a warning lists them.
"""

import logging
import re
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from ampguard.errors import MissingExtraError, TaskError
from ampguard.integrations.lightning_loss import TRANSFER_HOOKS, Steps
from ampguard.integrations.lightning_module import overrides, unguardable
from ampguard.integrations.lightning_recipe import Recipe
from ampguard.task import Task
from ampguard.tasks.doors import LIGHTNING, is_a

log = logging.getLogger("ampguard.integrations")

_REFUSED = {
    "configure_gradient_clipping": "Clip with --max-grad-norm.",
    "lr_scheduler_step": "Return a scheduler that torch's own step() moves.",
    "optimizer_step": "Put a warm-up into an LR scheduler.",
    "optimizer_zero_grad": "Leave it out: gradients are freed at each step.",
    "transfer_batch_to_device": "Leave it out: tensors in dicts, lists, tuples and dataclasses are moved.",
}
"""Hooks that change what a step is, and what to do instead."""


def make_task(module: Any, datamodule: Any = None, **options: Any) -> Task:
    """Return the Task of a LightningModule. `Task.from_lightning` is its public name and says the rest."""
    make = _maker(module, options)
    data = datamodule() if isinstance(datamodule, type) else datamodule
    probe = make()
    _check(probe, data)
    if data is not None:
        data.prepare_data()
    probe.prepare_data()
    if data is not None:
        data.setup(stage="fit")
    _set_up(probe)
    train, val = _loaders(probe if data is None else data)
    recipe, steps = Recipe(probe, _length(train)), Steps(probe, data)
    validates = val is not None and overrides(probe, "validation_step")
    return Task(
        name=_snake(type(probe).__name__),
        model=lambda: _set_up(make()),
        loss=steps.loss,
        evaluate=steps.evaluate if validates else None,
        train_data=train,
        val_data=val if validates else None,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        defaults=_defaults(recipe, train, val),
        info={"lightning": [type(owner).__qualname__ for owner in filter(None, (probe, data))]},
    )


def _maker(module: Any, options: dict[str, Any]) -> Callable[[], Any]:
    if not any(find_spec(library) for library in LIGHTNING):
        raise MissingExtraError("lightning", "lightning", "Task.from_lightning")
    if is_a(module, "LightningModule", *LIGHTNING) and not isinstance(module, type):
        if options:
            raise TaskError(
                f"the module is made already, and options {', '.join(options)} came too late.",
                hint="Give its class, or a function.",
            )
        # Lightning leaves the Trainer that a module was in out of its copies.
        return lambda: deepcopy(module)
    if not callable(module):
        raise TaskError(f"the module is a {type(module).__name__}.", hint="Give a LightningModule or its class.")
    return lambda: module(**options)


def _set_up(module: Any) -> Any:
    module.setup(stage="fit")
    module.configure_model()
    return module


def _check(module: Any, data: Any) -> None:
    if not is_a(module, "LightningModule", *LIGHTNING):
        raise TaskError(f"it makes a {type(module).__name__}, not a LightningModule.")
    if data is not None and not is_a(data, "LightningDataModule", *LIGHTNING):
        raise TaskError(
            f"the datamodule is a {type(data).__name__}.",
            hint="Give a LightningDataModule, its class, or None for the module's own dataloaders.",
        )
    name, reason = type(module).__name__, unguardable(module)
    if reason:
        raise TaskError(f"{name} {reason}.", hint="Keep that loop, with one ampguard.Guard for each optimizer.")
    if not overrides(module, "training_step"):
        raise TaskError(f"{name} has no training_step.", hint="Define training_step(self, batch, batch_idx).")
    for owner in filter(None, (data, module)):
        for hook, remedy in _REFUSED.items():
            if hasattr(owner, hook) and overrides(owner, hook):
                raise TaskError(
                    f"{type(owner).__name__} has a {hook} of its own, which a Task cannot call.", hint=remedy
                )
    hooks = [name for name in dir(type(module)) if name.startswith("on_") and callable(getattr(type(module), name))]
    silent = [hook for hook in hooks if hook not in TRANSFER_HOOKS and overrides(module, hook)]
    if silent:
        log.warning("%s: without a Trainer these hooks are not called: %s.", name, ", ".join(silent))


def _loaders(owner: Any) -> tuple[Any, Any]:
    if not overrides(owner, "train_dataloader"):
        raise TaskError(
            f"{type(owner).__name__} has no train_dataloader.",
            hint="Give a LightningDataModule, on the command line with --task.datamodule NAME.",
        )
    val = owner.val_dataloader() if overrides(owner, "val_dataloader") else None
    return _one(owner.train_dataloader(), "train_dataloader"), val if val is None else _one(val, "val_dataloader")


def _one(loaders: Any, name: str) -> Any:
    if isinstance(loaders, list | tuple) and len(loaders) == 1:
        return loaders[0]
    if isinstance(loaders, list | tuple | dict) or is_a(loaders, "CombinedLoader", *LIGHTNING):
        raise TaskError(f"{name} returns several loaders; a Task has one.", hint="Join their datasets: ConcatDataset.")
    return loaders


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        # A loader of an IterableDataset, or a bare iterable.
        return None


def _defaults(recipe: Recipe, train: Any, val: Any) -> dict[str, Any]:
    defaults = {
        "lr": recipe.lr,
        "max_grad_norm": 0.0,
        "batch_size": getattr(train, "batch_size", None),
        "val_batch_size": getattr(val, "batch_size", None),
    }
    if recipe.schedule is None:
        defaults |= {"schedule": "constant", "warmup_steps": 0}
    return {name: value for name, value in defaults.items() if value is not None}


def _snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
