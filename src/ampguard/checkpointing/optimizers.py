"""Optimizer states that come back as they were, where torch's own round trip changes them.

Three things differ from `load_state_dict` alone: an LR tensor is saved as a float, which fits every device, and put
back into the tensor that the optimizer holds, so that a compiled or captured step still reads it; a state tensor keeps
its dtype (torch casts it to its parameter's, which turns float32 moments of bf16 weights into bf16 and codes of an
8-bit optimizer into floats); and other optimizers are refused before anything is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ampguard.errors import CheckpointError

_SAME_OPTIMIZER = "Resume with the optimizer that the run was started with, or start a new run."


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's state_dict with every LR as a float.

    Sync: reads an LR that is a tensor on a device.
    """
    state = optimizer.state_dict()
    groups = [{key: _as_float(key, value) for key, value in group.items()} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def check_optimizers(saved: Sequence[Mapping[str, Any]], types: Sequence[str], live: Sequence[Optimizer]) -> None:
    """Refuse states of other optimizers, or of other parameter groups.

    Raises:
        CheckpointError: Naming the first difference; nothing has been loaded.
    """
    here = [type(optimizer).__name__ for optimizer in live]
    if list(types) != here:
        raise _other_optimizer(f"it holds {', '.join(types) or 'none'}, this run has {', '.join(here) or 'none'}")
    for index, (state, optimizer) in enumerate(zip(saved, live, strict=True)):
        there = [len(group["params"]) for group in state["param_groups"]]
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if there != sizes:
            raise _other_optimizer(f"the groups of optimizer {index} have {there} parameters there and {sizes} here")


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load a state that `check_optimizers` has passed; LR tensors stay the same objects, dtypes stay as saved.

    Sync: none on the optimizer's device beyond the copies.
    """
    bound = [
        (index, key, value)
        for index, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if _is_lr(key) and isinstance(value, Tensor)
    ]
    optimizer.load_state_dict(saved)
    for index, key, tensor in bound:
        group = optimizer.param_groups[index]
        if not isinstance(group[key], Tensor):
            tensor.fill_(group[key])
            group[key] = tensor
    _keep_dtypes(optimizer, saved)


def _keep_dtypes(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Put back the state tensors that torch's load has cast to the dtype of their parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        live = optimizer.state.get(parameter, {})
        for key, value in saved["state"].get(index, {}).items():
            loaded = live.get(key)
            if isinstance(value, Tensor) and isinstance(loaded, Tensor) and loaded.dtype != value.dtype:
                live[key] = value.to(loaded.device)


def _as_float(key: str, value: object) -> object:
    return float(value) if _is_lr(key) and isinstance(value, Tensor) else value


def _is_lr(key: str) -> bool:
    """Say whether a group's entry is a learning rate; schedulers keep the first one as "initial_lr"."""
    return key in ("lr", "initial_lr")


def _other_optimizer(difference: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint is of other optimizers: {difference}.", hint=_SAME_OPTIMIZER)
