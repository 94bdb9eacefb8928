"""The options of a training run: one field, one flag, one line of TOML. Imports no torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ampguard.errors import ConfigError, did_you_mean
from ampguard.task import Task

DEFAULTS: Mapping[str, Any] = {
    "steps": 1000,
    "batch_size": 32,
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "max_grad_norm": 1.0,
    "init_scale": 2.0**16,
}
"""Used where neither caller nor Task says: AdamW's usual values, and the clipping of GPT-3 (arXiv:2005.14165)."""

WARMUP_FRACTION = 0.05
"""Share of the steps that the LR rises for, where nobody says."""

VALIDATIONS = 5
"""Validations in a run, where nobody says how often."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. None: the Task's own default, else ampguard's."""

    precision: str = "auto"
    """fp32, tf32, bf16-mixed, fp16-mixed, bf16-true, or auto: the fastest that is safe on this device."""
    on_unsupported: Literal["fallback", "error", "emulate"] = "fallback"
    """What to do when the device lacks the precision: run in fp32 and say so, refuse, or run it emulated."""
    steps: int | None = None
    """Optimizer steps to attempt. Excludes --epochs."""
    epochs: int | None = None
    """Passes over the training data. Excludes --steps."""
    batch_size: int | None = None
    """Samples per optimizer step, over all micro-batches."""
    micro_batch_size: int | None = None
    """Samples per forward; by default the whole batch. Gradients are accumulated exactly."""
    lr: float | None = None
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] | None = None
    """How the LR falls after warm-up, over applied steps; cosine and linear end at a tenth of the peak."""
    warmup_steps: int | None = None
    """Applied steps in which the LR rises to its peak; by default 5 % of the run."""
    weight_decay: float | None = None
    """Decay of the weights, on matrices only (not on biases and norms); for the default optimizer."""
    max_grad_norm: float | None = None
    """Clip the global gradient norm at this value; 0: no clipping."""
    ema: float | None = None
    """Decay of a moving average of the weights, in (0, 1), which is then what is validated."""
    init_scale: float | None = None
    """First loss scale in fp16; by default 65536, torch's."""
    growth_interval: int = 2000
    """Applied steps in a row before the loss scale doubles."""
    max_skip_streak: int = 32
    """Skipped steps in a row after which the run fails."""
    validate_every: int | None = None
    """Steps between two validations; by default a fifth of the run. The last step is always validated."""
    val_batch_size: int | None = None
    """Samples per validation forward; by default as in training."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl."""
    checkpoint_every: str = "10m"
    """A time such as 30s, 10m, 2h, or a number of steps. The last step is always saved."""
    seed: int = 0
    """Seed of the weights, the data order and everything random."""
    deterministic: bool = False
    """Refuse operations that are not deterministic; slower. On a CPU runs are so anyway."""
    workers: int | None = None
    """Processes that load data; the batches are the same whatever their number."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one."""
    out: Path | None = None
    """Run folder; by default runs/TASK-TIME."""
    resume: str | None = None
    """auto: go on from the newest valid checkpoint, or start; or a run folder, whose options are taken over."""
    track: tuple[str, ...] = ()
    """Trackers beside metrics.jsonl; may be given again and again."""

    def __post_init__(self) -> None:
        """Refuse values that no run could mean."""
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(f"steps {self.steps} and epochs {self.epochs} exclude each other.", hint="Give one.")
        for name in ("steps", "epochs", "batch_size", "micro_batch_size", "validate_every", "val_batch_size"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "an integer >= 1")
        self._require("lr", self.lr is None or (math.isfinite(self.lr) and self.lr > 0), "a finite number > 0")
        for name in ("weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            self._require(name, value is None or (math.isfinite(value) and value >= 0), "a finite number >= 0")
        for name in ("warmup_steps", "workers"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 0, "an integer >= 0")
        self._require("log_every", self.log_every >= 1, "an integer >= 1")
        choices = ("cosine", "linear", "constant", None)
        if self.schedule not in choices:
            raise ConfigError(
                f"schedule {self.schedule!r} is unknown.",
                allowed=("cosine", "linear", "constant"),
                hint=did_you_mean(str(self.schedule), ("cosine", "linear", "constant")),
            )
        self.checkpoint_interval()

    def _require(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")

    def checkpoint_interval(self) -> tuple[int | None, float | None]:
        """Return (steps, None) or (None, seconds) between two checkpoints."""
        match = re.fullmatch(r"(\d+)([smh]?)", str(self.checkpoint_every).strip())
        if match is None or int(match[1]) == 0:
            raise ConfigError(
                f"checkpoint_every is {self.checkpoint_every!r}.", hint="Give a time such as 30s, 10m or 2h, or steps."
            )
        number, unit = int(match[1]), match[2]
        return (None, number * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit]) if unit else (number, None)

    def filled(self, task: Task) -> "TrainConfig":
        """Return a copy in which every None that the Task or ampguard has a default for is filled."""
        names = {field.name for field in fields(self)}
        unknown = [name for name in task.defaults if name not in names]
        if unknown:
            raise ConfigError(
                f"Task {task.name!r} has a default for {unknown[0]!r}, which is no training option.",
                hint=did_you_mean(unknown[0], sorted(names)),
            )
        base = {**DEFAULTS, **task.defaults}
        if self.epochs is not None or (self.steps is None and "epochs" in task.defaults):
            base.pop("steps")
        if self.steps is not None:
            base.pop("epochs", None)
        fresh = {name: value for name, value in base.items() if getattr(self, name) is None}
        return replace(self, **fresh)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain TOML values, without those that are None."""
        values = {**asdict(self), "out": self.out and str(self.out), "track": list(self.track)}
        return {name: value for name, value in values.items() if value is not None}


def make_config(options: Mapping[str, Any]) -> TrainConfig:
    """Return the config of `options`; an unknown name raises ConfigError with the closest one."""
    names = [field.name for field in fields(TrainConfig)]
    for name in options:
        if name not in names:
            raise ConfigError(f"train has no option {name!r}.", allowed=names, hint=did_you_mean(name, names))
    known = dict(options)
    if known.get("out") is not None:
        known["out"] = Path(known["out"])
    known["track"] = tuple(known.get("track", ()))
    if "checkpoint_every" in known:
        known["checkpoint_every"] = str(known["checkpoint_every"])
    return TrainConfig(**known)
