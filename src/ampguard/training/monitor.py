"""What follows from a validation: whether it is the best, whether to stop, and what becomes of the LR.

One metric, `monitor`, decides all three. The plateau rule is torch's own `ReduceLROnPlateau`, run on a dummy whose LR
is the factor that the guard multiplies its schedule by. A metric that is not finite is never better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ampguard.errors import ConfigError, did_you_mean
from ampguard.task import Task
from ampguard.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one validation means."""

    best: bool
    """It is better than all before."""
    lr_factor: float
    """What the LR of the schedule is to be multiplied by from now on; 1.0 without a plateau rule."""
    stop: str
    """Why to stop; "" to go on."""


class Monitor:
    """Judges the validations of a run, in order.

    Args:
        config: Its monitor, early_stop and plateau fields are used.

    Raises:
        ConfigError: Something is to be decided by a validation, and the Task has none, or not this metric.
    """

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self._config = config
        _check_task(config, task)
        self.best: float | None = None
        """The best value so far."""
        self._before: float | None = None
        self._reference: float | None = None
        self._stale = 0
        self._dummy = SGD([torch.zeros((), requires_grad=True)], lr=1.0)
        self._plateau = (
            ReduceLROnPlateau(
                self._dummy,
                mode=config.monitor_mode,
                factor=config.plateau_factor,
                patience=config.plateau_patience,
                # Any gain counts, as for the best; torch's relative threshold is never met where values are negative.
                threshold=0.0,
                threshold_mode="abs",
            )
            if config.schedule == "plateau"
            else None
        )

    @property
    def exhausted(self) -> str:
        """Why the run is to stop by what was seen so far; "" to go on."""
        patience = self._config.early_stop
        if patience is None or self._stale < patience:
            return ""
        reference = "none that is finite" if self._reference is None else f"{self._reference:.6g}"
        return f"{self._config.monitor} did not improve in {self._stale} validations: the best is {reference}"

    def judge(self, metrics: Mapping[str, float]) -> Verdict:
        """Return what a validation means. metrics: "val/loss" and the Task's own.

        Raises:
            ConfigError: `monitor` is not among them.
        """
        value = self._value(metrics)
        best = self._better(value, self.best, 0.0)
        if best:
            self._before, self.best = self.best, value
        if self._better(value, self._reference, self._config.early_stop_delta):
            self._reference, self._stale = value, 0
        else:
            self._stale += 1
        if self._plateau is not None:
            self._plateau.step(value)
        return Verdict(best=best, lr_factor=self._dummy.param_groups[0]["lr"], stop=self.exhausted)

    def forget_best(self) -> None:
        """The weights of the best validation could not be saved: a later, worse one may be the best that is kept."""
        self.best = self._before

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plateau = None if self._plateau is None else self._plateau.state_dict()
        own = {"best": self.best, "before": self._before, "reference": self._reference, "stale": self._stale}
        return {**own, "plateau": plateau, "lr_factor": self._dummy.param_groups[0]["lr"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state that `state_dict` returned."""
        self.best, self._before = state["best"], state["before"]
        self._reference, self._stale = state["reference"], state["stale"]
        self._dummy.param_groups[0]["lr"] = state["lr_factor"]
        if self._plateau is not None and state["plateau"] is not None:
            self._plateau.load_state_dict(state["plateau"])

    def _value(self, metrics: Mapping[str, float]) -> float:
        name = self._config.monitor
        if name in metrics:
            return metrics[name]
        if name == "val/loss" and not self._decides:
            # Only the best checkpoint goes by it, and a Task whose metrics have other names has none.
            return math.nan
        raise _unknown(name, list(metrics))

    @property
    def _decides(self) -> bool:
        return self._config.early_stop is not None or self._plateau is not None

    def _better(self, value: float, than: float | None, delta: float) -> bool:
        if not math.isfinite(value):
            return False
        if than is None:
            return True
        gain = than - value if self._config.monitor_mode == "min" else value - than
        return gain > delta


def _check_task(config: TrainConfig, task: Task) -> None:
    wants = (
        "early_stop" if config.early_stop is not None else "schedule plateau" if config.schedule == "plateau" else ""
    )
    if wants and task.val_data is None:
        raise ConfigError(f"{wants} goes by validation, and Task {task.name!r} has no val_data.")
    if task.val_data is not None and task.evaluate is None and config.monitor != "val/loss":
        raise _unknown(config.monitor, ["val/loss"])


def _unknown(name: str, known: list[str]) -> ConfigError:
    return ConfigError(
        f"monitor is {name!r}, which validation does not give.", allowed=known, hint=did_you_mean(name, known)
    )
