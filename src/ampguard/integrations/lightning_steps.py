"""What a guard does at the places where Lightning asks its precision plugin: autocast, backward, clipping, the step.

The strategy calls `convert_module`, then `connect`, which makes the guard of a fit. A batch calls `train_step_context`
around training_step, `backward`, and at a group's end `optimizer_step` with a closure of all that. Without the
Trainer's hooks and schedulers the guard's step costs no synchronisation with a fused optimizer; a scheduler that
moves each step must know whether it was applied, and that is one.

Nothing here imports Lightning: `lightning.py` gives the class its base.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from ampguard.engine import Guard
from ampguard.errors import ConfigError
from ampguard.hardware import inspect
from ampguard.integrations.lightning_module import overrides, unguardable
from ampguard.precision import Decision, autocast, canonical, resolve

log = logging.getLogger("ampguard.integrations")

_SPELLED = {"fp32": "32-true", "tf32": "32-true", "fp16-mixed": "16-mixed", "auto": "32-true"}
"""Where Lightning's name of a precision is not ours; "auto" is spelled anew when it is decided."""


class GuardedSteps:
    """What GuardPrecision adds to Lightning's Precision, of either package; its arguments are described there."""

    guard: Guard | None = None
    """The guard of the fit that is under way, or was last; None before the first."""

    def __init__(self, precision: object = "auto", **options: Any) -> None:
        self.requested = precision
        self.precision = _spelled(canonical(precision))
        self.decision: Decision | None = None
        self._options = options
        self._applied: Tensor | bool = True
        self._micro_batches = 0
        self._folds_clipping = self._watched = False

    def convert_module(self, module: Any) -> Any:
        """Decide the precision for the Trainer's device; outside of a fit, store the weights in it as a guard would."""
        device = module.trainer.strategy.root_device
        on_unsupported = self._options.get("on_unsupported", "fallback")
        decision = resolve(self.requested, inspect(device), on_unsupported=on_unsupported)
        if self.requested == "32-true":
            # Lightning's word for float32 says nothing of tf32, ours does: only ours may set the process's mode.
            decision = replace(decision, requested="32-true")
        self.decision, self.precision = decision, _spelled(decision.granted)
        self._device_type = device.type
        stored = decision.policy.storage_dtype
        return module if module.trainer.state.fn == "fit" or stored is torch.float32 else module.to(stored)

    def connect(self, model: Any, optimizers: list[Optimizer], lr_schedulers: list[Any]) -> tuple[Any, ...]:
        """Make the guard of a fit, and let schedulers that step each step wait for applied ones."""
        trainer = model.trainer
        if trainer.state.fn == "fit":
            _refuse(trainer, model, optimizers)
            self._read_hooks(trainer, model)
            options = {**self._options, **self._clipping(trainer)}
            self._applied, self._micro_batches = True, 0
            self.guard = Guard(model, optimizers, decision=self.decision, **options)
            lr_schedulers = [self._held(config) for config in lr_schedulers]
        return model, optimizers, lr_schedulers

    def _read_hooks(self, trainer: Any, model: Any) -> None:
        clips_itself = overrides(model, "configure_gradient_clipping")
        by_norm = (trainer.gradient_clip_algorithm or "norm") == "norm"
        self._folds_clipping = by_norm and not clips_itself
        observers = [model, *trainer.callbacks]
        self._watched = (
            clips_itself
            or bool(trainer.gradient_clip_val and not by_norm)
            or any(overrides(observer, "on_before_optimizer_step") for observer in observers)
        )

    def _clipping(self, trainer: Any) -> dict[str, Any]:
        if not (self._folds_clipping and trainer.gradient_clip_val):
            return {}
        if "max_grad_norm" in self._options:
            raise ConfigError(
                f"both the Trainer's gradient_clip_val={trainer.gradient_clip_val} and the guard's "
                f"max_grad_norm={self._options['max_grad_norm']} clip the gradients.",
                hint="Give one of them.",
            )
        return {"max_grad_norm": trainer.gradient_clip_val}

    def _held(self, config: Any) -> Any:
        if config.interval != "step" or config.reduce_on_plateau:
            return config
        return replace(config, scheduler=HeldScheduler(config.scheduler, lambda: bool(self._applied)))

    @contextmanager
    def forward_context(self) -> Generator[None]:
        """Autocast for validation, test and prediction: outside of a step there is nothing to undo. Sync: none."""
        assert self.decision is not None
        with autocast(self.decision.policy, self._device_type):
            yield

    @contextmanager
    def train_step_context(self) -> Generator[None]:
        """The guard's own autocast, which saves the buffers when a step begins. Sync: none."""
        assert self.guard is not None
        with self.guard.autocast():
            yield

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, **kwargs: Any) -> None:
        """Add the gradients of a micro-batch, with the weight of each other one of its group. Sync: none."""
        del optimizer
        assert self.guard is not None
        group = model.trainer.accumulate_grad_batches
        # The loop has divided by the length of a full group; the guard divides by the length that this group has.
        self.guard.backward(tensor if group == 1 else tensor * group, weight=1, **kwargs)
        self._micro_batches += 1

    def optimizer_step(self, optimizer: Any, model: Any, closure: Callable[[], Any]) -> Any:
        """Run the closure (forward and backward), then the hooks, then the guard's step.

        Sync: as Guard.step.
        """
        assert self.guard is not None
        result = closure()
        if not self._micro_batches:
            # training_step returned None for the whole group: there is no step to take, and the LR waits.
            self._applied = False
            return result
        if self._watched:
            self.guard.unscale_()
        self._after_closure(model, optimizer)  # type: ignore[attr-defined]
        self._applied = self.guard.step()
        self._micro_batches = 0
        return result

    def clip_gradients(self, optimizer: Any, clip_val: int | float = 0.0, *args: Any, **kwargs: Any) -> None:
        """Clip by value, or as the module's own hook says; clipping by norm is part of the guard's step. Sync: none."""
        if not self._folds_clipping:
            super().clip_gradients(optimizer, clip_val, *args, **kwargs)  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """Return the guard's state, for Lightning's checkpoint. Sync: as Guard.state_dict."""
        return {} if self.guard is None else self.guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the guard's state; outside of a fit there is no guard that needs it."""
        if self.guard is not None:
            self.guard.load_state_dict(state_dict)

    def teardown(self) -> None:
        """Tell the events of the last steps, and one line about the run."""
        if self.guard is not None:
            log.info(repr(self.guard))


class HeldScheduler:
    """An LR scheduler that stands still where the step was skipped, and is the caller's own in all else.

    Args:
        scheduler: Lightning steps it after each step.
        applied: Whether the last step was applied. Sync: one, where that lives on an accelerator.
    """

    def __init__(self, scheduler: Any, applied: Callable[[], bool]) -> None:
        self._scheduler = scheduler
        self._applied = applied

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Step the scheduler, if the optimizer's step was applied. Sync: one."""
        if self._applied():
            self._scheduler.step(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_scheduler"), name)


def _refuse(trainer: Any, module: Any, optimizers: Sequence[Optimizer]) -> None:
    reason = unguardable(module)
    if reason:
        raise ConfigError(
            f"{type(module).__name__} {reason}.",
            hint="Guard its steps where it takes them, with ampguard.Guard(self, optimizer); or observe only, with "
            "GuardCallback(guard=False).",
        )
    if isinstance(optimizers[0], LBFGS):
        raise ConfigError("LBFGS calls the closure itself, several times a step: there is no one step to guard.")
    if trainer.world_size > 1:
        raise ConfigError(
            f"the Trainer runs {trainer.world_size} processes; the Lightning door guards one.",
            hint="Use devices=1, or GuardCallback(guard=False) to observe only.",
        )


def _spelled(precision: str) -> str:
    return _SPELLED.get(precision, precision)
