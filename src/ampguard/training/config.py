"""The options of a training run: one field, one flag, one line of TOML. Imports no torch."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ampguard.errors import ConfigError, did_you_mean
from ampguard.task import Task

DEFAULTS: Mapping[str, Any] = {
    "steps": 1000,
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "max_grad_norm": 1.0,
    "init_scale": 2.0**16,
}
"""Used where neither caller nor Task says: AdamW's usual values, and the clipping of GPT-3 (arXiv:2005.14165)."""

SCHEDULES = ("cosine", "linear", "constant", "plateau")

WARMUP_FRACTION = 0.05
"""Share of the steps that the LR rises for, where nobody says."""

_UNITS = (86400.0, 3600.0, 60.0, 1.0)
"""Seconds in a day, an hour, a minute, a second."""

_KINDS: Mapping[type, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    str: (str, "a text"),
}
"""What a field's annotation takes, from Python as from TOML; a bool is no number."""

VALIDATIONS = 5
"""Validations in a run, where nobody says how often."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. None: the Task's own default, else ampguard's (`make_config`)."""

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
    schedule: Literal["cosine", "linear", "constant", "plateau"] | None = None
    """How the LR falls after warm-up, over applied steps; cosine and linear end at a tenth of the peak; plateau: it
    is multiplied by --plateau-factor when validation stands still. By default the Task's own, else cosine."""
    plateau_patience: int = 2
    """Validations in a row without a better --monitor that schedule plateau lets pass; the next one lowers the LR."""
    plateau_factor: float = 0.5
    """What schedule plateau multiplies the LR by, in (0, 1)."""
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
    """Skipped steps in a row after which --on-collapse decides."""
    on_collapse: Literal["raise", "continue", "fallback"] = "fallback"
    """What to do when nothing but skipped steps comes: find the module at fault, and fail naming it, go on, or bring it
    to fp32 where it overflows in fp16 (the whole run, where no single module will do)."""
    validate_every: int | None = None
    """Steps between two validations; by default a fifth of the run. The last step is always validated."""
    monitor: str = "val/loss"
    """The validation metric that best, --early-stop and schedule plateau go by."""
    monitor_mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher --monitor is better."""
    early_stop: int | None = None
    """Stop after this many validations in a row without a better --monitor."""
    early_stop_delta: float = 0.0
    """What --monitor must change by to count as better for --early-stop."""
    val_batch_size: int | None = None
    """Samples per validation forward; by default as in training."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl."""
    checkpoint_every: str = "10m"
    """A time such as 30s, 10m, 2h, or a number of steps. The last step is always saved."""
    max_time: str | None = None
    """Wall time of this part of the run, such as 3h50m or 90s: then it finishes the step, saves and exits with 75."""
    compile: bool = False
    """Compile the model with torch.compile; graph breaks and recompilations are reported."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory, where the model offers it."""
    override: tuple[str, ...] = ()
    """Precision of single modules, as GLOB=PRECISION: lm_head=fp32, blocks.*.norm=fp32; may be given repeatedly."""
    seed: int = 0
    """Seed of the weights, the data order and everything random."""
    deterministic: bool = False
    """Refuse operations that are not deterministic; slower. On a CPU runs are so anyway."""
    workers: int | None = None
    """Processes that load data; the batches are the same whatever their number."""
    threads: int | None = None
    """Threads of torch on a CPU; by default all. Another number rounds sums differently."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one."""
    out: Path | None = None
    """Run folder; by default runs/TASK-TIME."""
    resume: str | None = None
    """auto: go on from the newest valid checkpoint, or start; or a run folder, whose options are taken over."""
    ranges_every: int | None = None
    """Steps from one measured step to the next: ranges.json in the run folder tells, module by module, what would leave
    fp16's range. By default none is measured. With --compile a measured step runs eagerly."""
    replay_bundles: int = 5
    """Steps that were not finite of which a run keeps a bundle for `ampguard doctor replay`; 0: none."""
    replay_limit_mib: int = 64
    """Most MiB of one replay bundle, batch and checkpoint together; what is larger is referred to, not kept."""
    track: tuple[str, ...] = ()
    """Tracker that is sent every row and event beside metrics.jsonl: wandb, tensorboard, mlflow, trackio, or one of
    your own as my_tracker.py:MyTracker. May be given again and again. It never stops or slows training."""
    group: str | None = None
    """Name under which trackers keep this run with others, such as those of one search."""
    track_timeout: float = 30.0
    """Seconds to wait for all trackers together when the run ends; what is missing then, ampguard track sends later."""
    report: bool = True
    """Write report.html into the run folder when the run ends, also when it fails."""

    def __post_init__(self) -> None:
        """Refuse values that no run could mean."""
        self._check_types()
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(f"steps {self.steps} and epochs {self.epochs} exclude each other.", hint="Give one.")
        for name in (
            "steps",
            "epochs",
            "batch_size",
            "micro_batch_size",
            "validate_every",
            "val_batch_size",
            "threads",
        ):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "an integer >= 1")
        self._require("lr", self.lr is None or (math.isfinite(self.lr) and self.lr > 0), "a finite number > 0")
        for name in ("weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            self._require(name, value is None or (math.isfinite(value) and value >= 0), "a finite number >= 0")
        for name in ("warmup_steps", "workers", "replay_bundles", "replay_limit_mib"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 0, "an integer >= 0")
        self._require("log_every", self.log_every >= 1, "an integer >= 1")
        self._require("ranges_every", self.ranges_every is None or self.ranges_every >= 1, "an integer >= 1")
        self._require("early_stop", self.early_stop is None or self.early_stop >= 1, "an integer >= 1")
        self._require("track_timeout", _at_least_zero(self.track_timeout), "a finite number >= 0")
        self._require("early_stop_delta", _at_least_zero(self.early_stop_delta), "a finite number >= 0")
        self._require("plateau_patience", self.plateau_patience >= 0, "an integer >= 0")
        self._require("plateau_factor", 0 < self.plateau_factor < 1, "a number in (0, 1)")
        self._require("ema", self.ema is None or 0 < self.ema < 1, "a decay in (0, 1)")
        self._choose("schedule", (*SCHEDULES, None))
        self._choose("monitor_mode", ("min", "max"))
        self._choose("on_collapse", ("raise", "continue", "fallback"))
        self.checkpoint_interval()
        self.max_time_s()

    def _check_types(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            kinds = [] if get_origin(hint) is tuple else [k for k in get_args(hint) or (hint,) if k in _KINDS]
            value = getattr(self, name)
            # precision has spellings that are no text: 16, torch.bfloat16.
            if value is None or not kinds or name == "precision":
                continue
            allowed, words = _KINDS[kinds[0]]
            fits = isinstance(value, allowed) and (kinds[0] is bool or not isinstance(value, bool))
            self._require(name, fits, words)

    def _choose(self, name: str, allowed: tuple[str | None, ...]) -> None:
        value, names = getattr(self, name), [choice for choice in allowed if choice is not None]
        if value not in allowed:
            raise ConfigError(f"{name} {value!r} is unknown.", allowed=names, hint=did_you_mean(str(value), names))

    def _require(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")

    def checkpoint_interval(self) -> tuple[int | None, float | None]:
        """Return (steps, None) or (None, seconds) between two checkpoints."""
        text = str(self.checkpoint_every).strip()
        if re.fullmatch(r"[1-9]\d*", text):
            return int(text), None
        return None, seconds("checkpoint_every", text, "such as 30s, 10m or 2h, or a number of steps")

    def max_time_s(self) -> float | None:
        """Return `max_time` in seconds; None: no limit."""
        return None if self.max_time is None else seconds("max_time", self.max_time, "such as 90s, 45m or 3h50m")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain TOML values, without those that are None."""
        lists = {"track": list(self.track), "override": list(self.override)}
        values = {**asdict(self), "out": self.out and str(self.out), **lists}
        return {name: value for name, value in values.items() if value is not None}


def make_config(options: Mapping[str, Any], task: Task) -> TrainConfig:
    """Return the config of a run: what was given, else the Task's own default, else ampguard's.

    Args:
        options: Fields of TrainConfig by name; None counts as not given.
        task: Its `defaults` are fields, too.

    Raises:
        ConfigError: A name is unknown, a value is out of range, or two exclude each other.
    """
    _check_names(options, "train has no option {!r}.")
    _check_names(task.defaults, f"Task {task.name!r} has a default for {{!r}}, which is no training option.")
    given = {name: value for name, value in options.items() if value is not None}
    base = {**DEFAULTS, **task.defaults}
    if task.schedule is not None and "schedule" not in task.defaults:
        # The Task's own stays in force: only a schedule that somebody names goes before it.
        base.pop("schedule")
    if "epochs" in given or ("steps" not in given and "epochs" in task.defaults):
        base.pop("steps")
    elif "steps" in given:
        base.pop("epochs", None)
    values = base | given
    values["out"] = Path(values["out"]) if "out" in values else None
    values["track"] = as_items(values.get("track", ()))
    values["override"] = as_items(values.get("override", ()))
    if "checkpoint_every" in values:
        values["checkpoint_every"] = str(values["checkpoint_every"])
    return TrainConfig(**values)


def _check_names(options: Mapping[str, Any], message: str) -> None:
    names = [field.name for field in fields(TrainConfig)]
    for name in options:
        if name not in names:
            raise ConfigError(message.format(name), allowed=names, hint=did_you_mean(name, names))


def as_items(given: Any) -> tuple[str, ...]:
    """Return texts: {"lm_head": "fp32"} as ("lm_head=fp32",), for a flag, a line of TOML and an argument are one thing.

    Raises:
        ConfigError: It is neither a text, nor texts, nor a mapping.
    """
    if isinstance(given, Mapping):
        return tuple(f"{glob}={precision}" for glob, precision in given.items())
    items = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{given!r} was given where a text or a list of texts is meant.")
    return items


def seconds(name: str, text: str, example: str = "such as 90s, 10m or 2h") -> float:
    """Return the seconds that a text such as 1h30m states.

    Args:
        name: Of the option, for the message.
        text: A number and a unit, or several: 1d, 3h50m, 90s.
        example: Of what is allowed, for the message.

    Raises:
        ConfigError: It states no time, or none at all.
    """
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", str(text).strip())
    found = 0.0
    if match is not None:
        found = sum(int(part or 0) * unit for part, unit in zip(match.groups(), _UNITS, strict=True))
    if not found:
        raise ConfigError(f"{name} is {text!r}.", hint=f"Give a time {example}.")
    return found


def _at_least_zero(value: float) -> bool:
    return math.isfinite(value) and value >= 0
