"""What a search found, as typed values: the JSON of `ampguard tune`, `study.json`, and what `ampguard.tune` returns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ampguard.records import SCHEMA


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial that ended with a result."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    reason: str
    """Why it failed or was ended early; "" for one that is complete."""
    params: Mapping[str, Any]
    value: float | None
    """The metric at its last validation; None for one that failed."""
    run_dir: str
    """Empty for one whose processes died."""
    is_default: bool = False
    """Whether it is the default configuration: trial 0, or what it became after its process was lost."""
    wall_s: float | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)
    """The metric by validation, counted from 1."""

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end."""
        return self.state == "complete"


@dataclass(frozen=True, kw_only=True)
class LostAttempt:
    """A trial whose process was killed, died, or was interrupted, and which was therefore run again."""

    number: int
    reason: str
    again_as: int
    """Number of the trial that ran its parameters again."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the metric's variance each parameter explains, or why that is not known."""

    method: str
    values: Mapping[str, float] | None
    reason: str = ""
    """Why there are no values, or why a parameter is not among them."""


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """The result of a search."""

    task: str
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: tuple[TrialRecord, ...]
    """Each with a result, by number."""
    best: TrialRecord | None
    """None where no trial is complete."""
    default_value: float | None
    """The metric of the default configuration; None where it did not complete."""
    importance: Importance
    study_dir: str
    status: Literal["finished", "interrupted", "preempted"]
    verdict: str
    """Whether anything beats the default, in a sentence."""
    best_config: str | None
    """TOML that `ampguard train --config` takes; None without a complete trial."""
    command: str | None
    """What trains the best configuration again; None without one, or for a Task that was given in Python."""
    resume_command: str | None
    """What goes on with the search; None where it is finished, or its Task was given in Python."""
    space: tuple[str, ...]
    settings: Mapping[str, Any]
    """The options of the search, with what was left open decided."""
    lost: tuple[LostAttempt, ...]
    warnings: tuple[str, ...]
    wall_s: float
    """Seconds of this part of the search."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object, with its schema version first."""
        return {"schema": SCHEMA, **asdict(self)}

    def counts(self) -> dict[str, int]:
        """Return how many trials ended in each state."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in ("complete", "pruned", "failed")}
