"""What a checkpoint holds: everything that decides the rest of a run, collected and put back.

    model          state_dict: weights and buffers
    model_versions the version numbers that modules keep for `load_state_dict`
    optimizers     one state_dict each, the LR as a float
    guard          loss scale, counters, schedule, EMA, fallbacks: whatever the guard says is its state
    rng            every generator (rng.py)
    progress       the caller's own: step, epoch, data position, best metric; plain values
    environment    what bit-exactness depends on (environment.py)

`collect` returns references to the live tensors, not copies: saving is synchronous, so nothing moves under it.
`restore` compares first and touches nothing until all of it fits.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ampguard.checkpointing.environment import describe_environment, warn_of_differences
from ampguard.checkpointing.optimizers import check_optimizers, load_optimizer, optimizer_state
from ampguard.checkpointing.rng import capture_rng, restore_rng
from ampguard.errors import CheckpointError

_PARTS = ("model", "model_versions", "optimizers", "optimizer_types", "guard", "rng", "progress", "environment")

_SAME_MODEL = "Resume with the options that the model was built with, or start a new run."


class Stateful(Protocol):
    """What has a state to save; the guard of the step is one."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take the state back."""


def collect(
    *, model: nn.Module, optimizers: Sequence[Optimizer], guard: Stateful, progress: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the state of a run at a step boundary, for `CheckpointStore.save`.

    Args:
        model: The model; tied weights stand under each of their names.
        optimizers: In an order that is the same at `restore`.
        guard: Anything with state_dict and load_state_dict.
        progress: What the caller needs to go on, plain values.

    Returns:
        References to live tensors: save before the next step, or copy.

    Sync: reads LRs that are tensors on a device.
    """
    weights = model.state_dict()
    return {
        "model": dict(weights),
        "model_versions": dict(getattr(weights, "_metadata", {})),
        "optimizers": [optimizer_state(optimizer) for optimizer in optimizers],
        "optimizer_types": [type(optimizer).__name__ for optimizer in optimizers],
        "guard": guard.state_dict(),
        "rng": capture_rng(),
        "progress": dict(progress),
        "environment": describe_environment(model),
    }


def restore(
    state: Mapping[str, Any], *, model: nn.Module, optimizers: Sequence[Optimizer], guard: Stateful
) -> dict[str, Any]:
    """Put a collected state back: model, optimizers, guard, and last the generators.

    The optimizers may adopt tensors of `state`: load the checkpoint again to restore it a second time.

    Args:
        state: As `collect` returned it and `CheckpointStore.load` read it.
        model: Of the same architecture.
        optimizers: Of the same types, groups and order.
        guard: Built over them already.

    Returns:
        The progress that was saved.

    Raises:
        CheckpointError: It is of another model or other optimizers; nothing has been changed.
    """
    missing = [part for part in _PARTS if part not in state]
    if missing:
        raise CheckpointError(
            f"the checkpoint has no {', '.join(missing)}.",
            hint="It was not written by ampguard train; use one that was.",
        )
    _check_model(state["model"], model.state_dict())
    check_optimizers(state["optimizers"], state["optimizer_types"], optimizers)
    warn_of_differences(state["environment"], describe_environment(model))
    restore_model(state, model)
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        load_optimizer(optimizer, saved)
    guard.load_state_dict(state["guard"])
    restore_rng(state["rng"])
    return dict(state["progress"])


def restore_model(state: Mapping[str, Any], model: nn.Module) -> None:
    """Put back weights and buffers alone.

    Args:
        state: As for `restore`.
        model: Of the same architecture.

    Raises:
        CheckpointError: It is of another model; nothing has been changed.
    """
    _check_model(state["model"], model.state_dict())
    weights = OrderedDict(state["model"])
    weights._metadata = OrderedDict(state["model_versions"])  # type: ignore[attr-defined]
    model.load_state_dict(weights)


def _check_model(saved: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    """Refuse weights of another architecture; the message names the first fqn that differs."""
    for fqn, value in live.items():
        if fqn not in saved:
            raise _another_model(f"it has no {fqn!r}, which this model has")
        if _form(saved[fqn]) != _form(value):
            raise _another_model(f"{fqn!r} is {_form(saved[fqn])} there and {_form(value)} here")
    for fqn in saved:
        if fqn not in live:
            raise _another_model(f"it has {fqn!r}, which this model has not")


def _form(value: object) -> str:
    """Return what two entries must share to be exchanged: shape and dtype of a tensor."""
    if not isinstance(value, Tensor):
        return "extra state"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _another_model(difference: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint is of another model: {difference}.", hint=_SAME_MODEL)
