"""The law of the loss scale.

In fp16 small gradients flush to zero. The loss is therefore multiplied by a scale S before the backward pass
and the gradients are divided by it afterwards. S halves after an overflow and doubles after a long run of
applied steps, between a floor and a ceiling. The law is `torch.amp.GradScaler`'s, with the same names; the
floor and the ceiling are ours (without them S reaches 0, and inf). `NoScale` is the law of every other precision.

Source: Micikevicius et al. 2018, section 3.2 (arXiv:1710.03740); torch.amp.GradScaler.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ampguard.engine.config import GuardConfig


class LossScale(ABC):
    """One number on the device, and how it changes."""

    value: Tensor
    """S, float32, shape ()."""

    @abstractmethod
    def multiply(self, loss: Tensor) -> Tensor:
        """Return S * loss. Sync: none."""

    @abstractmethod
    def unscale(self, count_ratio: Tensor | None) -> Tensor | None:
        """Return S * count_ratio, the divisor that turns raw gradients into the step's; None where it is 1."""

    @abstractmethod
    def update(self, found_inf: Tensor) -> None:
        """Move S after a step, in place. found_inf: float32, shape (), 0.0 or 1.0. Sync: none."""

    @abstractmethod
    def host(self, value: float) -> float | None:
        """Return what to report for a value of S that was read from the device."""

    @abstractmethod
    def after_skip(self, value: float) -> float:
        """Return the S that follows a skipped step with S = value, on the host."""

    @abstractmethod
    def at_floor(self, value: float) -> bool:
        """Return whether S = value can shrink no further."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return {"scale", "growth_tracker"}, or {}. Sync: one."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that `state_dict` returned."""


class NoScale(LossScale):
    """S is 1 for ever: fp32, tf32, bf16."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.ones((), dtype=torch.float32, device=device)

    def multiply(self, loss: Tensor) -> Tensor:  # noqa: D102
        return loss

    def unscale(self, count_ratio: Tensor | None) -> Tensor | None:  # noqa: D102
        return count_ratio

    def update(self, found_inf: Tensor) -> None:  # noqa: D102
        del found_inf

    def host(self, value: float) -> float | None:  # noqa: D102
        del value
        return None

    def after_skip(self, value: float) -> float:  # noqa: D102
        return value

    def at_floor(self, value: float) -> bool:  # noqa: D102
        del value
        return False

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        del state


class DynamicScale(LossScale):
    """S follows the overflows: fp16."""

    def __init__(self, config: GuardConfig, device: torch.device) -> None:
        self._config = config
        self.value = torch.full((), config.init_scale, dtype=torch.float32, device=device)
        self._growth_tracker = torch.zeros((), dtype=torch.int32, device=device)

    def multiply(self, loss: Tensor) -> Tensor:  # noqa: D102
        return loss * self.value

    def unscale(self, count_ratio: Tensor | None) -> Tensor | None:  # noqa: D102
        return self.value.clone() if count_ratio is None else self.value * count_ratio

    def update(self, found_inf: Tensor) -> None:  # noqa: D102
        law = self._config
        torch._amp_update_scale_(
            self.value, self._growth_tracker, found_inf, law.growth_factor, law.backoff_factor, law.growth_interval
        )
        self.value.clamp_(law.min_scale, law.max_scale)

    def host(self, value: float) -> float | None:  # noqa: D102
        return value

    def after_skip(self, value: float) -> float:  # noqa: D102
        return max(value * self._config.backoff_factor, self._config.min_scale)

    def at_floor(self, value: float) -> bool:  # noqa: D102
        return value <= self._config.min_scale

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"scale": self.value.item(), "growth_tracker": int(self._growth_tracker.item())}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.value.fill_(state["scale"])
        self._growth_tracker.fill_(state["growth_tracker"])
