"""Hugging Face's doors: a Trainer whose steps are guarded, and a callback for a Trainer that cannot be changed.

    class MyTrainer(GuardTrainerMixin, Trainer): ...            # or GuardedTrainer itself
    Trainer(..., callbacks=[GuardTrainerCallback()])

The mixin is the whole guard: it gives the Trainer a GuardedAccelerator, and everything else is the Trainer's own. The
callback is what can be done from outside, and says what it leaves out. `Task.from_hf` is in `transformers_task`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ampguard.engine import Guard
from ampguard.errors import ConfigError, MissingExtraError
from ampguard.integrations.accelerate import GuardedAccelerator
from ampguard.integrations.accelerate_step import GuardedOptimizer, save_before_forward
from ampguard.integrations.amp import observed_metrics
from ampguard.precision import Decision

try:
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise MissingExtraError("transformers", "hf", "ampguard.integrations.transformers") from error


class GuardTrainerMixin:
    """Guards the steps of a Trainer: put it before the class, as in `class MyTrainer(GuardTrainerMixin, Trainer)`.

    A step with non-finite gradients is skipped in fp32 and bf16, too; it holds weights, LR and BatchNorm, and counts
    in `global_step`, which counts attempts. Every log has `amp/*`, so that each reporting integration gets it.
    Checkpoints carry the guard as `scaler.pt`. `fp16=True` and `bf16=True` are granted aloud, or not.

    Args:
        args: As for the Trainer.
        guard_options: Options of the Guard by name: on_unsupported, max_skip_streak, on_event ...
        kwargs: As for the Trainer.
    """

    accelerator: Any
    optimizer: Any

    def __init__(self, *args: Any, guard_options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self._guard_options = guard_options or {}
        super().__init__(*args, **kwargs)

    @property
    def guard(self) -> Guard:
        """The guard of the optimizer; ConfigError before `train` has made one."""
        guard: Guard = self.accelerator.guard
        return guard

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator as the Trainer does, and guard it."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        GuardedAccelerator.adopt(self.accelerator, self._guard_options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with `amp/*`. Sync: one."""
        if isinstance(self.optimizer, GuardedOptimizer):
            logs.update(self.optimizer.figures())
        super().log(logs, start_time)  # type: ignore[misc]


class GuardedTrainer(GuardTrainerMixin, Trainer):  # type: ignore[misc]
    """Hugging Face's Trainer with guarded steps."""


class TrainersOptimizer(GuardedOptimizer):
    """A guarded optimizer whose gradients are the Trainer's: autocast, loss scale and backward are not ours."""

    def step(self, closure: Any = None) -> None:
        """Take the guarded step, and let the Trainer's loss scale follow its own law. Sync: as `Guard.step`."""
        # What torch's schedulers note by wrapping `step`; they leave this one alone, see below.
        self._opt_called = True
        if not self.gradient_state.sync_gradients:
            return
        scaler = self.scaler if self.scaler is not None and self.scaler.is_enabled() else None
        if scaler is not None and not scaler._per_optimizer_states[id(self.optimizer)]["found_inf_per_device"]:
            scaler.unscale_(self.optimizer)
        # The gradients are there already: a loss that reaches no parameter says that this is a step.
        self.backward(torch.zeros((), device=self.guard.device, requires_grad=True))
        super().step(closure)
        if scaler is not None:
            scaler.update()

    # The schedule was made before the callback came, and has hidden the class's step behind its own wrapper, which
    # `adopt` takes away. With this mark torch takes `step` for wrapped.
    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]

    @classmethod
    def adopt(cls, optimizer: Any, make_guard: Any) -> "GuardedOptimizer":
        """Turn an AcceleratedOptimizer, with a schedule or without, into one of this class."""
        vars(optimizer).pop("step", None)
        return super().adopt(optimizer, make_guard)

    def figures(self) -> dict[str, float | int]:
        """Return the guard's counts, with the precision and the loss scale that the Trainer uses."""
        return super().figures() | observed_metrics(self.scaler, self.accelerator_state.mixed_precision)


class GuardTrainerCallback(TrainerCallback):  # type: ignore[misc]
    """Guards the optimizer of any Trainer: exact skips in every precision, which hold weights, LR and BatchNorm.

    What a callback cannot do: autocast, the loss scale and its checkpoint stay the Trainer's own, the counts begin
    at zero with each `train`, and the integrations of `report_to` log before it is asked. `first_in(trainer)` puts it
    before them; without, `amp/*` reaches the log history, the console, and callbacks that come after it.

    Args:
        guard_options: Options of the Guard: max_skip_streak, on_event ...

    Raises:
        ConfigError: At the start of training: the optimizer is not Accelerate's own (DeepSpeed, SageMaker).
    """

    def __init__(self, **guard_options: Any) -> None:
        self._options = guard_options
        self._optimizer: GuardedOptimizer | None = None

    def first_in(self, trainer: Any) -> None:
        """Make this the first callback of the Trainer, so that every logger gets `amp/*`."""
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(callback for callback in callbacks if callback is not self)]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Guard the optimizer that the Trainer has prepared, unless it is guarded already."""
        del args, state, control
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if not isinstance(optimizer, GuardedOptimizer):
            self._refuse(optimizer)
            optimizer = TrainersOptimizer.adopt(optimizer, lambda inner: self._make_guard(model, inner))
            guard = optimizer.guard
            save_before_forward(model, lambda: [guard])
        self._optimizer = optimizer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Add `amp/*` to what is logged. Sync: one."""
        del args, control, kwargs
        if self._optimizer is None or logs is None:
            return
        figures = self._optimizer.figures()
        logs.update(figures)
        # The Trainer copied the logs into its history before it called.
        state.log_history[-1].update(figures)

    def _make_guard(self, model: nn.Module, optimizer: Optimizer) -> Guard:
        # Not resolved: the guard neither casts nor scales, whatever the Trainer does.
        decision = Decision(requested="auto", granted="fp32", reason="autocast and loss scale are the Trainer's")
        return Guard(model, optimizer, decision=decision, **self._options)

    def _refuse(self, optimizer: Any) -> None:
        if type(optimizer) is not GuardedOptimizer.__base__:
            raise ConfigError(
                f"GuardTrainerCallback cannot guard a {type(optimizer).__name__}.",
                hint="It needs the AcceleratedOptimizer that a Trainer without DeepSpeed has.",
            )
