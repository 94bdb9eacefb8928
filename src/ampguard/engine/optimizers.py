"""How a decided step reaches the optimizers: fused (nothing leaves the device) or unfused (one sync a step).

A fused optimizer takes two numbers: `grad_scale`, which it divides each gradient by as it reads it, and
`found_inf`, which makes it do nothing at 1.0. Its kernel tests for exactly 1.0, so 2.0 or NaN would apply the
step: found_inf is only ever 0.0 or 1.0 here. Any other optimizer is called or not called by the host, which
must know the answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Optimizer

from ampguard.engine.fold import dense


class Stepper(ABC):
    """Steps all optimizers of a guard together, or none."""

    fused: bool
    """Whether the step needs no host synchronisation."""

    @abstractmethod
    def step(self, grads: Sequence[Tensor], divisor: Tensor | None, found_inf: Tensor) -> bool | None:
        """Step every optimizer with gradients divided by `divisor`, unless found_inf is 1.0.

        Returns:
            Whether the step was applied, where the host knows; else None.
        """


class FusedStepper(Stepper):
    """Sync: none. Gradients come back unscaled, as torch's fused kernels leave them."""

    fused = True

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        for optimizer in optimizers:
            seed_momentum(optimizer)
            optimizer.register_load_state_dict_post_hook(seed_momentum)

    def step(self, grads: Sequence[Tensor], divisor: Tensor | None, found_inf: Tensor) -> bool | None:  # noqa: D102
        del grads
        for optimizer in self._optimizers:
            fused: Any = optimizer
            fused.grad_scale, fused.found_inf = divisor, found_inf
            try:
                optimizer.step()
            finally:
                del fused.grad_scale, fused.found_inf
        return None


class HostStepper(Stepper):
    """Sync: exactly one. Any optimizer, sparse gradients included."""

    fused = False

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def step(self, grads: Sequence[Tensor], divisor: Tensor | None, found_inf: Tensor) -> bool | None:  # noqa: D102
        known = [found_inf] if divisor is None else [found_inf, divisor]
        skipped, *rest = torch.stack(known).tolist()
        if skipped:
            return False
        if rest and rest[0] != 1.0:
            # The reciprocal in double, then float32: bitwise torch.amp.GradScaler.unscale_.
            torch._foreach_mul_(dense(grads), 1.0 / rest[0])
        for optimizer in self._optimizers:
            optimizer.step()
        return True


def make_stepper(optimizers: Sequence[Optimizer], *, sparse: bool, tables_lr: bool) -> Stepper:
    """Return the fused stepper if every optimizer allows it, else the one that asks the host.

    Args:
        optimizers: All optimizers of a guard.
        sparse: Whether a gradient may be sparse, which fused kernels refuse.
        tables_lr: Whether the LR will be a tensor.
    """
    fused = not sparse and all(takes_numbers(optimizer, tables_lr=tables_lr) for optimizer in optimizers)
    return FusedStepper(optimizers) if fused else HostStepper(optimizers)


def takes_numbers(optimizer: Optimizer, *, tables_lr: bool) -> bool:
    """Return whether an optimizer steps by `grad_scale` and `found_inf`, in all of its groups and from its first step.

    Args:
        optimizer: Any optimizer.
        tables_lr: Whether its LR will be a tensor.
    """
    groups_fused = (group.get("fused", True) for group in optimizer.param_groups)
    if not getattr(optimizer, "_step_supports_amp_scaling", False) or not all(groups_fused):
        return False
    if isinstance(optimizer, SGD):
        # A fused SGD whose first step is skipped keeps an uninitialised momentum buffer. Zeros in its place are
        # bitwise torch only without dampening.
        return all(not (group["momentum"] and group["dampening"]) for group in optimizer.param_groups)
    if isinstance(optimizer, Adagrad) and tables_lr:
        return "tensor_lr" in torch.ops.aten._fused_adagrad_.overloads()  # type: ignore[no-untyped-call]
    return True


@contextmanager
def unfused(optimizer: Optimizer) -> Iterator[None]:
    """Hide from torch's GradScaler that an optimizer takes numbers, where not all of its groups do."""
    declared = getattr(optimizer, "_step_supports_amp_scaling", False)
    if not declared:
        yield
        return
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer._step_supports_amp_scaling = declared  # type: ignore[attr-defined]


def seed_momentum(optimizer: Optimizer) -> None:
    """Give a fused SGD the momentum buffers that it lacks, as zeros, so that none is ever uninitialised."""
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        for param in group["params"] if group["momentum"] else ():
            if optimizer.state[param].get("momentum_buffer") is None:
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
