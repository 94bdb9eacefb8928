"""What stands in Accelerate where it steps: the optimizer, the scaler's place, and the hook that begins a step.

Both doors that are built on Accelerate use them: `GuardedAccelerator`, and Hugging Face's Trainer.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ampguard.engine import Guard
from ampguard.errors import ConfigError, MissingExtraError
from ampguard.integrations.amp import guard_metrics
from ampguard.task import LossSum

try:
    from accelerate.optimizer import AcceleratedOptimizer
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise MissingExtraError("accelerate", "hf", "guarding the steps of Accelerate") from error


class GuardedOptimizer(AcceleratedOptimizer):  # type: ignore[misc]
    """What `prepare` makes of an optimizer: its step is the guard's. Accelerate's schedulers ask it about skips."""

    _make_guard: Callable[[Optimizer], Guard]
    _applied: Tensor | None
    _under_way: bool

    @classmethod
    def adopt(cls, optimizer: Any, make_guard: Callable[[Optimizer], Guard]) -> "GuardedOptimizer":
        """Turn an AcceleratedOptimizer into one of this class, in place: others may hold it already."""
        optimizer.__class__ = cls
        optimizer._make_guard, optimizer._applied, optimizer._under_way = make_guard, None, False
        adopted: GuardedOptimizer = optimizer
        return adopted

    @cached_property
    def guard(self) -> Guard:
        """The guard, made when it is first needed: by then model and optimizer are both prepared."""
        return self._make_guard(self.optimizer)

    def backward(self, loss: Tensor | LossSum, **options: Any) -> None:
        """Add the gradients of a micro-batch, as `Guard.backward` does. Sync: none."""
        self._under_way = True
        self.guard.backward(loss, **options)

    def step(self, closure: Any = None) -> None:
        """Take the guarded step, where Accelerate says that the group is complete. Sync: as `Guard.step`."""
        if closure is not None:
            raise ConfigError("a guarded step takes no closure.", hint="Call accelerator.backward(loss) before it.")
        if self.gradient_state.sync_gradients:
            self._applied = self.guard.step()
            self._under_way = False

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Clear the gradients; a step that is under way is dropped whole, its buffers put back."""
        if self.gradient_state.sync_gradients:
            self.drop()
        super().zero_grad(set_to_none)

    def drop(self) -> None:
        """Drop the step that is under way, if there is one. Sync: none."""
        if self._under_way:
            self.guard.rewind()
            self._under_way = False

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last step was skipped; exact, with fused optimizers too. Sync: one."""
        return self._applied is not None and not self._applied.item()

    def figures(self) -> dict[str, float | int]:
        """Return `amp/*` of the last step; {} before the first. Sync: one, if a step was taken since the last read."""
        return {key: value for key, value in guard_metrics(self.guard).items() if key.startswith("amp/")}


class GuardState:
    """Stands where Accelerate keeps its GradScaler: what saves and loads that one saves and loads the guard."""

    def __init__(self, guard: Callable[[], Guard]) -> None:
        self._guard = guard

    def is_enabled(self) -> bool:
        """Return whether the loss is scaled."""
        return self._guard().decision.policy.scaled

    def get_scale(self) -> float:
        """Return the loss scale, 1.0 where there is none, as a GradScaler does. Sync: one or two."""
        return float(self._guard().state_dict()["scale"].get("scale", 1.0))

    def state_dict(self) -> dict[str, Any]:
        """Return the guard's state. Sync: one or two."""
        return self._guard().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a guard's state, or the one of a torch GradScaler: a run that began without a guard goes on."""
        if "schema" not in state:
            # A disabled GradScaler's state is empty.
            law = {"scale": {"scale": state["scale"], "growth_tracker": state["_growth_tracker"]}} if state else {}
            state = {**self._guard().state_dict(), **law}
        self._guard().load_state_dict(state)


def save_before_forward(model: nn.Module, guards: Callable[[], list[Guard]]) -> None:
    """Let each training forward of the model save the buffers first, once a step; the last call for a model holds."""

    # Saving is not for a graph: where the Trainer compiles the model with its hooks, this one runs before it.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def begin(module: nn.Module, inputs: Any) -> None:
        del inputs
        for guard in guards() if module.training else ():
            with guard.autocast():
                pass

    previous = getattr(model, "_ampguard_begin", None)
    if previous is not None:
        previous.remove()
    model._ampguard_begin = model.register_forward_pre_hook(begin)  # type: ignore[assignment]
