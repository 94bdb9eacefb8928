"""Accelerate's door: an `Accelerator` whose steps are guarded. One import line of a training script changes.

    from ampguard.integrations.accelerate import GuardedAccelerator as Accelerator

Accelerate keeps its loop, its devices and its autocast; a `Guard` stands where it scales and steps. In the place of
its GradScaler stands `GuardState`, so that checkpoints of Accelerate, and of Trainers built on it, carry the guard.

One optimizer for each accelerator; replicas (DDP) skip together. Left out, and refused: DeepSpeed, FSDP, Megatron-LM,
XLA, fp8.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ampguard.engine import Guard, GuardConfig
from ampguard.errors import ConfigError, MissingExtraError
from ampguard.hardware import inspect
from ampguard.integrations.accelerate_step import GuardedOptimizer, GuardState, save_before_forward
from ampguard.precision import Decision, resolve
from ampguard.task import LossSum

try:
    from accelerate import Accelerator
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise MissingExtraError("accelerate", "hf", "ampguard.integrations.accelerate") from error

log = logging.getLogger("ampguard.integrations")

_ELSEWHERE = {"precision": "Give mixed_precision.", "schedule": "Prepare the scheduler; it counts applied steps."}
_REPLICATED = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")
"""Accelerate's names for one process, and for replicas that average their gradients."""


class GuardedAccelerator(Accelerator):  # type: ignore[misc]
    """An Accelerator whose optimizer steps happen wholly, or leave no trace.

    `mixed_precision` keeps its meaning, but is granted aloud: where the device lacks it one warning says what runs
    instead, and `decision` keeps the reason. Non-finite gradients skip the step in every precision. With
    `gradient_accumulation_steps` a step is the mean over the micro-batches that it really had.

    Args:
        args: As for Accelerator.
        guard_options: Options of the Guard by name: on_unsupported, max_skip_streak, on_event ...
        kwargs: As for Accelerator; GradScalerKwargs sets the law of the loss scale.

    Raises:
        ConfigError: A guard option is unknown, or the way of distributing is not supported.
        PrecisionError: The device lacks the precision and on_unsupported is "error".
    """

    decision: Decision
    """The precision: what was asked, what is granted, and why."""

    def __init__(self, *args: Any, guard_options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_up(guard_options or {})

    @classmethod
    def adopt(cls, accelerator: Any, guard_options: Mapping[str, Any]) -> "GuardedAccelerator":
        """Turn an Accelerator that has prepared nothing yet into a guarded one, in place."""
        accelerator.__class__ = cls
        adopted: GuardedAccelerator = accelerator
        adopted._set_up(guard_options)
        return adopted

    def _set_up(self, options: Mapping[str, Any]) -> None:
        self._refuse(options)
        law = self.scaler_handler.to_kwargs() if self.scaler_handler is not None else {}
        agree = None if self.num_processes == 1 else self._agree
        self._config = GuardConfig(agree=agree).with_options({**law, **options})
        self.decision = self._decide()
        # From here on Accelerate's own autocast follows the decision, and its scaler is ours.
        self.native_amp = self.decision.policy.autocasts
        self.scaler = GuardState(lambda: self.guard)

    def _refuse(self, options: Mapping[str, Any]) -> None:
        for name in _ELSEWHERE.keys() & options.keys():
            raise ConfigError(f"guard_options has {name!r}, which Accelerate decides.", hint=_ELSEWHERE[name])
        if self.distributed_type.name not in _REPLICATED:
            raise ConfigError(f"GuardedAccelerator cannot run with {self.distributed_type.name}.", allowed=_REPLICATED)
        if self.mixed_precision == "fp8":
            raise ConfigError("GuardedAccelerator has no fp8.", allowed=("no", "fp16", "bf16"))
        if self.scaler_handler is not None and not self.scaler_handler.enabled:
            raise ConfigError(
                "GradScalerKwargs has enabled=False: fp16 without a loss scale loses its small gradients.",
                hint="Leave it out, or use mixed_precision='bf16', which needs no scale.",
            )

    def _decide(self) -> Decision:
        if self.mixed_precision == "no":
            # Not resolved: fp32 asked for by name would turn tf32 off, which a Trainer's `tf32=True` has turned on.
            return Decision(requested="no", granted="fp32", reason="mixed_precision is 'no'")
        return resolve(self.mixed_precision, inspect(self.device), on_unsupported=self._config.on_unsupported)

    def _agree(self, found_inf: Tensor) -> Tensor:
        agreed: Tensor = self.reduce(found_inf, reduction="sum")
        return agreed

    @property
    def guard(self) -> Guard:
        """The guard of the prepared optimizer.

        Raises:
            ConfigError: No optimizer is prepared.
        """
        return self._guarded().guard

    def _guarded(self) -> GuardedOptimizer:
        if not self._optimizers:
            raise ConfigError("no optimizer is prepared.", hint="Call accelerator.prepare(model, optimizer) first.")
        optimizer: GuardedOptimizer = self._optimizers[0]
        return optimizer

    def prepare_optimizer(self, optimizer: Any, device_placement: bool | None = None) -> Any:
        """Prepare the optimizer as Accelerate does, and guard it."""
        if any(optimizer is not other for other in self._optimizers):
            raise ConfigError(
                "a second optimizer was prepared; a GuardedAccelerator guards one.",
                hint="Make one GuardedAccelerator for each model and optimizer.",
            )
        prepared = super().prepare_optimizer(optimizer, device_placement)
        if isinstance(prepared, GuardedOptimizer):
            return prepared
        return GuardedOptimizer.adopt(prepared, self._make_guard)

    def _make_guard(self, optimizer: Optimizer) -> Guard:
        held = {id(param) for group in optimizer.param_groups for param in group["params"]}
        trained = [model for model in self._models if any(id(param) in held for param in model.parameters())]
        if not trained:
            raise ConfigError(
                "no prepared model has the optimizer's parameters.",
                hint="Prepare both: accelerator.prepare(model, optimizer).",
            )
        model = trained[0] if len(trained) == 1 else nn.ModuleList(trained)
        return Guard(model, optimizer, self._config, decision=self.decision)

    def prepare_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Prepare the model as Accelerate does; a step's first forward saves its buffers."""
        prepared = super().prepare_model(model, *args, **kwargs)
        save_before_forward(prepared, lambda: [optimizer.guard for optimizer in self._optimizers])
        return prepared

    def backward(
        self, loss: Tensor | LossSum, *, weight: int | float | Tensor | None = None, **autograd_kwargs: Any
    ) -> None:
        """Add the gradients of a micro-batch.

        With gradient_accumulation_steps > 1 each micro-batch counts the same, or by its `weight` (samples, tokens).
        Without, gradients are added as they are. Sync: none.
        """
        if weight is None and self.gradient_accumulation_steps > 1 and not isinstance(loss, LossSum):
            weight = 1
        self._guarded().backward(loss, weight=weight, **autograd_kwargs)

    def unscale_gradients(self, optimizer: Any = None) -> None:
        """Unscale the gradients, in place, for those who read or clip them before the step. Sync: none."""
        del optimizer
        if not self.sync_gradients:
            raise ConfigError(
                "the gradients were to be unscaled or clipped before their group was complete.",
                hint="Do it under `if accelerator.sync_gradients:`.",
            )
        self.guard.unscale_()

    def log(self, values: dict[str, Any], step: int | None = None, log_kwargs: dict[str, Any] | None = None) -> None:
        """Log values and `amp/*` to all trackers. Sync: one."""
        figures = self._guarded().figures() if self._optimizers else {}
        super().log({**values, **figures}, step=step, log_kwargs=log_kwargs)

    def load_state(self, input_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Load a state of `save_state`, of a plain Accelerator too: without a loss scale it has no `scaler.pt`.

        Then the guard's counts begin anew, with a warning.
        """
        plain = input_dir is not None and not (Path(input_dir).expanduser() / "scaler.pt").exists()
        ours: Any = self.scaler
        if plain:
            log.warning("%s has no scaler.pt: it was saved without a guard, whose counts begin here.", input_dir)
            self.scaler = None  # type: ignore[assignment]
        try:
            super().load_state(input_dir, *args, **kwargs)
        finally:
            self.scaler = ours

    def free_memory(self, *objects: Any) -> Any:
        """Release what was prepared; a step under way, cut off by an error, is dropped."""
        for optimizer in self._optimizers:
            optimizer.drop()
        return super().free_memory(*objects)
