"""The options of a Guard, checked when they are given."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ampguard.engine.collapse import Action, Collapse, raise_collapse
from ampguard.errors import ConfigError, did_you_mean
from ampguard.records import Event

ScheduleFactory = Callable[[Optimizer], LRScheduler]
"""Makes a scheduler for an optimizer, for example `lambda o: CosineAnnealingLR(o, T_max=1000)`."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a Guard does beside guarding the step. Off unless asked: clipping, schedule, EMA."""

    precision: object = "auto"
    """Precision name, or any of its usual spellings: "bf16-mixed", "fp16", 32, torch.bfloat16, "auto"."""
    on_unsupported: Literal["fallback", "error", "emulate"] = "fallback"
    """What to do when the device lacks the precision that was asked for."""
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Precision by glob over fqns: {"blocks.*.norm": "fp32"}; the last match holds, and so does the last Guard."""
    max_grad_norm: float | None = None
    """Clip the global L2 norm of the unscaled gradients at this value; None: no clipping."""
    schedule: ScheduleFactory | None = None
    """LR schedule over *applied* steps; None: the LR stays the caller's."""
    ema: float | None = None
    """Decay per applied step of an exponential moving average of the weights, in (0, 1); None: none."""
    init_scale: float = 2.0**16
    """First loss scale in fp16. Source: torch.amp.GradScaler."""
    growth_factor: float = 2.0
    """Factor on the scale after `growth_interval` applied steps in a row. Source: torch.amp.GradScaler."""
    backoff_factor: float = 0.5
    """Factor on the scale after an overflow. Source: torch.amp.GradScaler."""
    growth_interval: int = 2000
    """Applied steps in a row before the scale grows. Source: torch.amp.GradScaler."""
    min_scale: float = 1.0
    """Floor of the loss scale: below 1 scaling would lose what it is there to keep."""
    max_scale: float = 2.0**24
    """Ceiling of the loss scale: 2**24 lifts fp16's smallest subnormal, 2**-24, to 1."""
    max_skip_streak: int = 32
    """Skipped steps in a row that are still ordinary; 16 take the default scale to its floor."""
    on_collapse: Callable[[Collapse], Action] = raise_collapse
    """Decides when the scale stands at its floor or the streak is too long; the default raises at once.
    ampguard.health.Sentinel("raise" | "continue" | "fallback") looks for the module at fault first."""
    check_every: int = 50
    """Steps between two reads of the device: the lag of events, never of the guarantees."""
    on_event: Callable[[Event], None] | None = None
    """Receives each event at the read that found it; None: the log."""
    agree: Callable[[Tensor], Tensor] | None = None
    """Takes this rank's found_inf, float32, shape (), to the maximum over ranks; None: one rank."""

    def __post_init__(self) -> None:
        """Refuse values that no run could mean."""
        self._require("overrides", isinstance(self.overrides, Mapping), "a mapping {glob: precision}")
        self._require("max_grad_norm", self.max_grad_norm is None or _positive(self.max_grad_norm), "a number > 0")
        self._require("ema", self.ema is None or 0 < self.ema < 1, "a decay in (0, 1)")
        self._require("min_scale", _positive(self.min_scale), "a finite number > 0")
        self._require("max_scale", _positive(self.max_scale) and self.max_scale >= self.min_scale, "at least min_scale")
        self._require("init_scale", _positive(self.init_scale), "a finite number > 0")
        self._require(
            "init_scale",
            self.min_scale <= self.init_scale <= self.max_scale,
            f"between min_scale {self.min_scale:g} and max_scale {self.max_scale:g}",
        )
        self._require("growth_factor", _positive(self.growth_factor) and self.growth_factor > 1, "a number > 1")
        self._require("backoff_factor", 0 < self.backoff_factor < 1, "a number in (0, 1)")
        self._require("growth_interval", self.growth_interval >= 1, "an integer >= 1")
        self._require("max_skip_streak", self.max_skip_streak >= 1, "an integer >= 1")
        self._require("check_every", self.check_every >= 1, "an integer >= 1")

    def _require(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")

    def with_options(self, options: dict[str, Any]) -> "GuardConfig":
        """Return a copy with `options` replaced; an unknown name raises ConfigError."""
        known = [option.name for option in fields(self)]
        for name in options:
            if name not in known:
                raise ConfigError(f"Guard has no option {name!r}.", allowed=known, hint=did_you_mean(name, known))
        return replace(self, **options)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
