"""What crosses rooms: a step, a run and an event, as plain numbers without torch.

A value that is not defined or not finite is None here and absent from `metrics.jsonl`; it is never 0.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = 1
"""Version of the run folder and of every JSON object that a command prints."""

EventKind = Literal[
    "skip", "scale_backoff", "collapse", "fallback", "nonfinite", "oom_split", "tracker_outage", "tracker_recovered",
    "checkpoint", "checkpoint_failed", "preempted", "interrupted", "early_stop", "resumed", "lr_lowered", "compile",
    "replay", "replay_failed",
]  # fmt: skip

RunStatus = Literal["finished", "stopped_early", "interrupted", "preempted", "failed"]


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One attempted optimizer step, as the guard read it from the device."""

    step: int
    """Ordinal of the attempted step, from 1."""
    loss: float | None
    """The step's own loss over its whole batch; None where it was not finite."""
    grad_norm: float | None
    """Global L2 norm of the unscaled gradients before clipping; None where it was not finite."""
    loss_scale: float | None
    """Loss scale that the step was taken with; None without scaling."""
    applied: bool
    """Whether the step happened; False: it was skipped and left no trace."""
    applied_steps: int
    """Applied steps so far, this one included."""
    skipped_steps: int
    """Skipped steps so far, this one included."""
    skip_streak: int
    """Skipped steps in a row that end with this one; 0 if it was applied."""
    lr: float
    """Learning rate of the first parameter group in this step."""

    def metrics(self, *, enabled: bool) -> dict[str, float | int]:
        """Return the row of `metrics.jsonl` that this step makes; what is None is absent. enabled: `amp/enabled`."""
        row: dict[str, float | int | None] = {
            "train/loss": self.loss,
            "train/lr": self.lr,
            "train/grad_norm": self.grad_norm,
            "amp/enabled": int(enabled),
            "amp/loss_scale": self.loss_scale,
            "amp/applied_steps": self.applied_steps,
            "amp/skipped_steps": self.skipped_steps,
            "amp/skip_streak": self.skip_streak,
        }
        return {key: value for key, value in row.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened at a step and that a person may want to know."""

    kind: EventKind
    step: int
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the row of `events.jsonl`: {"event", "step", "message", ...data}."""
        return {"event": self.kind, "step": self.step, "message": self.message, **self.data}


@dataclass(frozen=True, kw_only=True)
class PrecisionRecord:
    """A precision decision: what was asked, what is used, and why."""

    requested: str
    granted: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """Optimizer steps of a run: attempted = applied + skipped."""

    attempted: int
    applied: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The result of a training run: the JSON of `ampguard train` and `run.json`."""

    status: RunStatus
    task: str
    precision: PrecisionRecord
    device: str
    steps: StepCounts
    final: Mapping[str, float]
    """Last value of each metric, keys as in `metrics.jsonl`; NaN or inf where that was not finite, null as JSON."""
    loss_scale: float | None
    samples_per_s: float | None
    wall_s: float
    """Seconds spent, earlier parts of a resumed run included."""
    run_dir: str
    resumed_from: int | None
    """Step of the checkpoint that this run continued from."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the Task tells of its data, for example its SHA-256."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object, with its schema version first; what is not finite is null."""
        return {"schema": SCHEMA, **_json(asdict(self))}

    def lines(self) -> list[tuple[str, str]]:
        """Return (name, value) for people: what it did, how well, how fast, where it lies."""
        losses = {"train/loss": self.final.get("train/loss")}
        metrics = losses | {key: value for key, value in self.final.items() if key.startswith("val/")}
        counts = self.steps
        return [
            ("run", f"{self.task}: {self.status.replace('_', ' ')} on {self.device}"),
            ("precision", f"{self.precision.granted} ({self.precision.reason})"),
            ("steps", f"{counts.attempted} attempted, {counts.applied} applied, {counts.skipped} skipped"),
            *((key, f"{value:.4f}") for key, value in metrics.items() if value is not None),
            ("speed", self._speed()),
            ("folder", self.run_dir),
        ]

    def _speed(self) -> str:
        parts = [] if self.samples_per_s is None else [f"{self.samples_per_s:,.0f} samples/s"]
        tokens = self.final.get("throughput/tokens_per_s")
        parts += [] if tokens is None else [f"{tokens:,.0f} tokens/s"]
        return ", ".join([*parts, f"{self.wall_s:.1f} s in all"])

    def __str__(self) -> str:
        lines = self.lines()
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _json(value: Any) -> Any:
    """Return `value` with None for each float in it that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
