"""The options of a bench: one field, one flag. Imports no torch."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ampguard.errors import ConfigError, did_you_mean
from ampguard.training.config import seconds

QUICK_BUDGET_S = 60.0
"""What --quick has: with start and report it stays under 90 s on two cores."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """How to compare precisions."""

    precisions: tuple[str, ...] = ("fp32", "bf16-mixed", "fp16-mixed")
    """What to compare, as fp32,bf16,fp16; the baseline need not be named."""
    baseline: str = "fp32"
    """The precision that the others are compared with; it is measured first."""
    budget: str = "10m"
    """Time for everything, such as 90s, 10m or 1h: speed first, then as many seeds and steps of parity as fit."""
    quick: bool = False
    """A budget of one minute: speed, and parity over a few steps."""
    seeds: int = 5
    """Runs per precision that accuracy is compared over; under 3 it is not judged."""
    parity_steps: int | None = None
    """Optimizer steps of each of those runs; by default as many as the budget holds, at most the Task's own."""
    blocks: int = 20
    """Timed blocks per precision. An interval needs 10."""
    metric: str | None = None
    """The metric that accuracy is judged by; by default val/accuracy where the Task has it, else val/loss."""
    accuracy_margin: float = 0.01
    """Absolute difference of a metric in [0, 1] that still counts as equal."""
    loss_margin: float = 0.01
    """Relative difference of a loss that still counts as equal."""
    on_unsupported: Literal["skip", "emulate"] = "skip"
    """What to do with a precision that this device lacks: leave it out with the reason, or measure it emulated,
    within a fifth of the time for speed."""
    batch_size: int | None = None
    """Samples per optimizer step; by default the Task's own."""
    micro_batch_size: int | None = None
    """Samples per forward; by default the whole batch."""
    memory_limit: str | None = None
    """Memory, such as 2GiB or 800MiB, under which the largest micro-batch of each precision is sought; on a GPU by
    default its own, on a CPU it is not sought by default."""
    compile: bool = False
    """Compile the model with torch.compile."""
    seed: int = 0
    """First seed; the others follow it."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one."""
    out: Path | None = None
    """Folder of bench.json, the report and the parity runs; by default runs/bench-TASK-TIME."""
    resume: bool = False
    """Go on with the bench in --out, given the same options: what it has finished is kept. --seeds may be more."""
    track: tuple[str, ...] = ()
    """Tracker that is sent the figures, under bench/, as in train; may be given again and again."""
    against: Path | None = None
    """bench.json of another machine or commit, to compare with."""
    require: tuple[str, ...] = ()
    """What must be reached for exit code 0, such as speedup>=1.5,equivalent or bf16:speedup>=1.2."""

    def __post_init__(self) -> None:
        """Refuse values that no bench could mean."""
        for name in ("seeds", "blocks", "parity_steps", "batch_size", "micro_batch_size"):
            value = getattr(self, name)
            self._require(name, value is None or (_is_number(value, int) and value >= 1), "an integer >= 1")
        self._require("seed", _is_number(self.seed, int) and self.seed >= 0, "an integer >= 0")
        for name in ("accuracy_margin", "loss_margin"):
            value = getattr(self, name)
            fine = _is_number(value, int | float) and math.isfinite(value) and value > 0
            self._require(name, fine, "a finite number > 0")
        for name in ("quick", "compile", "resume"):
            self._require(name, isinstance(getattr(self, name), bool), "true or false")
        self._require("on_unsupported", self.on_unsupported in ("skip", "emulate"), "skip or emulate")
        if self.resume and self.out is None:
            raise ConfigError("resume is given without out.", hint="Name the folder of the bench: --out DIR.")
        self.budget_s()
        self.memory_limit_mib()

    def _require(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")

    def budget_s(self) -> float:
        """Return the budget in seconds."""
        if self.quick:
            return QUICK_BUDGET_S
        return seconds("budget", self.budget)

    def memory_limit_mib(self) -> float | None:
        """Return the memory limit in MiB; None where none was given."""
        if self.memory_limit is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|MiB)", str(self.memory_limit))
        if match is None or float(match[1]) <= 0:
            raise ConfigError(f"memory_limit is {self.memory_limit!r}.", hint="Give a size such as 2GiB or 800MiB.")
        return float(match[1]) * (1024 if match[2] == "GiB" else 1)


def make_config(options: Mapping[str, Any]) -> BenchConfig:
    """Return the config that keywords state; None counts as not given.

    Raises:
        ConfigError: A name is unknown, or a value is out of range.
    """
    known = [field.name for field in fields(BenchConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"bench has no option {name!r}.", allowed=known, hint=did_you_mean(name, known))
    values = {name: value for name, value in options.items() if value is not None}
    for name in ("precisions", "track", "require"):
        if name in values:
            values[name] = _texts(name, values[name])
    for name in ("out", "against"):
        if name in values:
            values[name] = Path(values[name])
    return BenchConfig(**values)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if name == "precisions":
        # A precision has spellings that are no text: 16, torch.bfloat16.
        return tuple(map(str, items))
    if not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{name} is {value!r}; it must be a text or a list of texts.")
    return items


def _is_number(value: object, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
