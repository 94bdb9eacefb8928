"""The optimizer and the LR schedule of a LightningModule's `configure_optimizers`, for an engine that counts steps.

`--lr` is the peak of the module's first parameter group, and scales all its learning rates. The module's schedulers
run as they are, on a twin of its optimizer that has one scalar a group; what they set there, times that scale, is
the schedule. So any scheduler works, and whatever the module gave it: factors, peaks, floors.

Left out, each with a warning: ReduceLROnPlateau, which needs a metric, and schedulers that step at each epoch where
the data has no length.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ampguard.errors import TaskError
from ampguard.integrations.lightning_module import overrides, package_of

log = logging.getLogger("ampguard.integrations")

_PASSED_ON = ("betas", "momentum")
"""Beside the LR: so that the engine sees, and refuses, a schedule that cycles them."""


class Recipe:
    """What a module's `configure_optimizers` says.

    Args:
        module: Asked once; every later optimizer is that of the model it is made for.
        steps_per_epoch: Batches of the module's own loader; None: it has no length.

    Raises:
        TaskError: It returns no optimizer, or several, or needs a Trainer.
    """

    def __init__(self, module: Any, steps_per_epoch: int | None) -> None:
        optimizer, schedulers = _configured(module)
        self._twin = _twin(optimizer)
        kept = [config for config in schedulers if _kept(config, steps_per_epoch)]
        intervals = [config.frequency * (1 if config.interval == "step" else steps_per_epoch or 1) for config in kept]
        # The schedulers' copies find the twin where the optimizer was, and do not take the module along.
        memo = {id(optimizer): self._twin, id(module): module}
        self._schedulers = list(zip(deepcopy([config.scheduler for config in kept], memo), intervals, strict=True))
        self.lr = _peak(self._twin)

    @property
    def schedule(self) -> Callable[[Optimizer], LRScheduler] | None:
        """The factory of the module's schedule over applied steps; None: it has none."""
        return self._schedule if self._schedulers else None

    def optimizer(self, module: Any, lr: float) -> Optimizer:
        """Return the module's optimizer with `lr` as the peak LR of its first group, and the others in proportion."""
        optimizer, _ = _configured(module)
        for group in optimizer.param_groups:
            # Not as a scheduler of the module's left it: that one is dropped here.
            group["lr"] = _peak_of(group) * (lr / self.lr)
        return optimizer

    def _schedule(self, optimizer: Optimizer) -> LRScheduler:
        twin, schedulers = deepcopy((self._twin, self._schedulers))
        return ModuleSchedule(optimizer, twin, schedulers)


class ModuleSchedule(LRScheduler):
    """The LRs that a module's own schedulers give a twin, in proportion to those of `optimizer`.

    Args:
        optimizer: Its LRs are the peaks.
        twin: What the schedulers move.
        schedulers: Each with the number of applied steps between two of its own.
    """

    def __init__(self, optimizer: Optimizer, twin: Optimizer, schedulers: list[tuple[Any, int]]) -> None:
        self._twin = twin
        self._schedulers = schedulers
        self._ratio = float(optimizer.param_groups[0]["lr"]) / _peak(twin)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Step the schedulers that are due, and return the LR of each group."""
        for scheduler, interval in self._schedulers:
            if self.last_epoch and self.last_epoch % interval == 0:
                scheduler.step()
        for group, own in zip(self.optimizer.param_groups, self._twin.param_groups, strict=True):
            group.update({key: own[key] for key in _PASSED_ON if key in own})
        return [float(own["lr"]) * self._ratio for own in self._twin.param_groups]


def _configured(module: Any) -> tuple[Optimizer, list[Any]]:
    """Return what the module configures, in Lightning's own reading of its six forms."""
    forms: Any = import_module(f"{package_of(module)}.core.optimizer")
    answer, name = _answer(module), type(module).__name__
    if answer is None:
        raise TaskError(f"{name}.configure_optimizers gives no optimizer.", hint="Return a torch.optim.Optimizer.")
    optimizers, schedulers, monitor = forms._configure_optimizers(answer)
    if len(optimizers) != 1:
        raise TaskError(
            f"{name}.configure_optimizers returns {len(optimizers)} optimizers; a Task has one.",
            hint="Give one optimizer several parameter groups, or write the loop with one ampguard.Guard for each.",
        )
    return optimizers[0], forms._configure_schedulers_automatic_opt(schedulers, monitor)


def _answer(module: Any) -> Any:
    if not overrides(module, "configure_optimizers"):
        return None
    try:
        return module.configure_optimizers()
    except RuntimeError as error:
        if "not attached to a `Trainer`" not in str(error):
            raise
        raise TaskError(
            f"{type(module).__name__}.configure_optimizers asks its Trainer, and a Task has none.",
            hint="Take what it asks for as an argument of the class; or leave the scheduler out, and use --schedule.",
        ) from error


def _kept(config: Any, steps_per_epoch: int | None) -> bool:
    name = type(config.scheduler).__name__
    if config.reduce_on_plateau:
        log.warning("%s is left out: it needs a metric. Use --schedule plateau.", name)
        return False
    if config.interval == "epoch" and not steps_per_epoch:
        log.warning("%s is left out: it steps at each epoch, and the training data has no length.", name)
        return False
    return True


def _twin(optimizer: Optimizer) -> Optimizer:
    groups = [{**group, "params": [torch.zeros((), requires_grad=True)]} for group in optimizer.param_groups]
    return deepcopy(Optimizer(groups, dict(optimizer.defaults)))


def _peak(optimizer: Optimizer) -> float:
    return _peak_of(optimizer.param_groups[0])


def _peak_of(group: dict[str, Any]) -> float:
    """Return the LR that a group was given: schedulers keep it, and OneCycleLR its own peak, beside the current one."""
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))
