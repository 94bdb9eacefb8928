"""What a bench found, as typed numbers: the JSON of `ampguard bench`, and what `ampguard.bench` returns.

A figure that is not known is None, and `reasons` says why; nothing here divides.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ampguard.benchmarking.against import Comparison
from ampguard.records import SCHEMA

Status = Literal["ok", "unsupported", "failed"]


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Milliseconds of an optimizer step, from the timed blocks."""

    median: float | None = None
    iqr: float | None = None
    n: int = 0
    """Blocks."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Where memory goes, MiB. A part that this device cannot tell is None."""

    weights: float | None = None
    gradients: float | None = None
    optimizer: float | None = None
    activations: float | None = None
    workspace: float | None = None


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times as fast as the baseline, from blocks that were measured side by side."""

    median: float | None = None
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Whether a precision trains as accurately as the baseline."""

    metric: str
    kind: Literal["absolute", "relative"]
    seeds: int
    steps: int
    """Optimizer steps of each run."""
    difference: float | None
    """Mean paired difference to the baseline; relative: a share of the baseline's value."""
    ci90: tuple[float, float] | None
    margin: float
    result: Literal["equivalent", "different", "inconclusive", "not_measured"]
    seeds_needed: int | None
    baseline_spread: float | None = None
    """Standard deviation of the baseline's own values over seeds, in the unit of the difference."""
    largest_gap: float | None = None
    """Largest gap of the mean training loss to the baseline's on the way, relative."""
    largest_gap_step: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The three aims that mixed precision is judged against; None: not known."""

    speedup_1_5x: bool | None = None
    memory_reduction_40pct: bool | None = None
    accuracy_stable: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One precision."""

    precision: str
    status: Status
    reason: str = ""
    """Why it is unsupported, failed, or runs as it does."""
    step_ms: StepTimes = field(default_factory=StepTimes)
    samples_ms: tuple[float, ...] = ()
    """Milliseconds of a step, block by block, in the order measured."""
    samples_per_s: float | None = None
    data_wait_ms: float | None = None
    """Milliseconds that a step's batch takes to fetch: outside of the timed region."""
    peak_memory_mib: float | None = None
    memory_mib: Memory = field(default_factory=Memory)
    speedup: Speedup = field(default_factory=Speedup)
    spread: float | None = None
    """Interquartile range over median of the paired ratios."""
    memory_reduction_pct: float | None = None
    largest_micro_batch: int | None = None
    """Largest micro-batch that fits, where memory has a limit."""
    parity: Parity
    """The baseline's is `not_measured`, and holds how far its own seeds lie apart."""
    targets: Targets = field(default_factory=Targets)
    skipped_steps: int | None = None
    """Steps of the timed blocks that were skipped, their gradients being not finite."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a figure is None, or is not all that it could be, by its name."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Which precision to use, and why, in words."""

    precision: str
    why: str


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The result of a bench."""

    task: str
    device: str
    baseline: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    recommendation: Recommendation
    warnings: tuple[str, ...] = ()
    """What makes the figures less certain: a noisy machine, a budget that ended early."""
    unmet: tuple[str, ...] = ()
    """What was required and is not reached, a sentence each."""
    against: Comparison | None = None
    """Beside an older bench, where one was named."""
    wall_s: float | None = None
    status: Literal["finished", "interrupted"] = "finished"
    out: str = ""
    """Folder of bench.json."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object, with its schema version first."""
        return {"schema": SCHEMA, **asdict(self)}

    def trial(self, precision: str) -> Trial | None:
        """Return the trial of a precision, or None."""
        return next((trial for trial in self.trials if trial.precision == precision), None)
