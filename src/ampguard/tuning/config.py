"""The options of a search: one field, one flag. Imports neither torch nor Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ampguard.errors import ConfigError, did_you_mean
from ampguard.training.config import as_items, seconds

DIRECTIONS = ("minimize", "maximize")
PRUNERS = ("hyperband", "median", "none")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How to search."""

    trials: int = 20
    """Trials to finish. Trial 0 is the default configuration and counts."""
    timeout: str | None = None
    """Time after which no further trial begins, such as 30m or 2h."""
    space: tuple[str, ...] = ()
    """What to search, as NAME=LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH, log-int:LOW:HIGH or A,B,C; NAME is an option of
    train or task.OPTION; may be given again and again. Without it lr, batch_size, warmup_steps and weight_decay are
    searched around the Task's own; the word default stands for those four beside others."""
    metric: str = "val/loss"
    """The validation metric to search by; a trial's value is that of its last validation."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether a lower or a higher metric is better."""
    pruner: Literal["hyperband", "median", "none"] = "median"
    """How trials are ended early by their validations: median ends those that are worse than the median of the others,
    hyperband gives more validations to those that do well."""
    workers: int = 1
    """Processes that run trials. With one, a search that is run again gives the same trials."""
    steps: int | None = None
    """Optimizer steps of each trial; by default the Task's own."""
    precision: str | None = None
    """Precision of every trial, unless it is searched; by default the Task's own, else auto, decided once for all. One
    that this device lacks is refused."""
    seed: int = 0
    """Seed of the search and of every trial."""
    threads: int | None = None
    """Threads of torch in each trial, on a CPU; by default all, shared out among the workers."""
    storage: str | None = None
    """Any Optuna storage URL, such as sqlite:///tune.db; by default a journal in the study folder."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, xpu; by default the accelerator, if there is one."""
    out: Path | None = None
    """Study folder; by default runs/tune-TASK-TIME."""
    resume: bool = False
    """Go on with the study in --out, with the options that it was begun with: what finished counts, what was running
    is run again."""
    track: tuple[str, ...] = ()
    """Tracker that each trial is sent to, as in train; may be given again and again."""
    trial_reports: bool = False
    """Write a report.html for every trial, too."""

    def __post_init__(self) -> None:
        """Refuse values that no search could mean."""
        for name in ("trials", "workers", "steps", "threads"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and value >= 1):
                raise ConfigError(f"{name} is {value!r}; it must be an integer >= 1.")
        if not (_is_whole(self.seed) and 0 <= self.seed < 2**32):
            raise ConfigError(f"seed is {self.seed!r}; it must be an integer from 0 to 2**32 - 1.")
        for name, allowed in (("direction", DIRECTIONS), ("pruner", PRUNERS)):
            value = getattr(self, name)
            if value not in allowed:
                hint = did_you_mean(str(value), allowed)
                raise ConfigError(f"{name} {value!r} is unknown.", allowed=allowed, hint=hint)
        self.timeout_s()

    def timeout_s(self) -> float | None:
        """Return the timeout in seconds; None: no limit."""
        return None if self.timeout is None else seconds("timeout", self.timeout)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain TOML values, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"space": list(self.space), "track": list(self.track), "out": self.out and str(self.out)}
        return {name: value for name, value in values.items() if value is not None}


def make_config(options: Mapping[str, Any]) -> TuneConfig:
    """Return the config that keywords state; None counts as not given.

    Raises:
        ConfigError: A name is unknown, or a value is out of range.
    """
    known = [field.name for field in fields(TuneConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"tune has no option {name!r}.", allowed=known, hint=did_you_mean(name, known))
    values = {name: value for name, value in options.items() if value is not None}
    values["track"] = as_items(values.get("track", ()))
    space = values.get("space", ())
    values["space"] = space_texts(space) if isinstance(space, Mapping) else as_items(space)
    if "out" in values:
        values["out"] = Path(values["out"])
    return TuneConfig(**values)


def space_texts(space: Mapping[str, Any]) -> tuple[str, ...]:
    """Return {"lr": "log:1e-5:1e-2", "schedule": ["cosine", "linear"]} as the texts that flags give."""
    return tuple(f"{name}={_text(value)}" for name, value in space.items())


def _text(value: Any) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    return ",".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
