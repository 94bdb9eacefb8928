"""An exponential moving average of the weights (EMA), over applied steps only.

ema <- ema + (1 - d) * (weights - ema), with d = min(decay, (1 + n) / (10 + n)) at the n-th applied step, so
that the first weights are soon forgotten. A skipped step takes a factor of exactly 0, and the weights that it
left untouched are as finite as before.

Source: Polyak and Juditsky 1992; the warm-up is TensorFlow's `tf.train.ExponentialMovingAverage(num_updates)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from ampguard.errors import CheckpointError, ConfigError


class Average(ABC):
    """The averaged weights, or their absence."""

    @abstractmethod
    def update(self, applied: Tensor, applied_steps: Tensor) -> None:
        """Follow the weights where `applied` (bool, shape ()) is True. applied_steps: int64, shape (1,). Sync: none."""

    @abstractmethod
    def swapped(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the averaged weights."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by fqn."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the averages that `state_dict` returned."""


class NoAverage(Average):
    """No EMA was asked for."""

    def update(self, applied: Tensor, applied_steps: Tensor) -> None:  # noqa: D102
        del applied, applied_steps

    def swapped(self) -> AbstractContextManager[None]:  # noqa: D102
        raise ConfigError("this Guard keeps no average of the weights.", hint="Make it with Guard(..., ema=0.999).")

    def state_dict(self) -> dict[str, Tensor]:  # noqa: D102
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: D102
        if state:
            raise CheckpointError("the state holds an EMA and this Guard keeps none.", hint="Pass the same ema=.")


class WeightAverage(Average):
    """EMA of every trainable floating-point parameter.

    Args:
        model: Its parameters are followed.
        decay: d, per applied step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._averages = [p.detach().clone() for p in self._weights]

    def update(self, applied: Tensor, applied_steps: Tensor) -> None:  # noqa: D102
        n = applied_steps[0].float()
        factor = 1 - torch.clamp((1 + n) / (10 + n), max=self._decay)
        factor = torch.where(applied, factor, torch.zeros_like(factor))
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.lerp_(weight.detach(), factor.to(average.dtype))

    @contextmanager
    def _swap(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        with torch.no_grad():
            for average, weight in zip(self._averages, self._weights, strict=True):
                held = weight.detach().clone()
                weight.copy_(average)
                average.copy_(held)

    def swapped(self) -> AbstractContextManager[None]:  # noqa: D102
        return self._swap()

    def state_dict(self) -> dict[str, Tensor]:  # noqa: D102
        return dict(zip(self._names, self._averages, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: D102
        if list(state) != self._names:
            raise CheckpointError("the state's EMA is of other parameters than this model's.")
        for average, saved in zip(self._averages, state.values(), strict=True):
            average.copy_(saved)
