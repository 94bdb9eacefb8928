"""What is searched: names, ranges and choices, read from text and checked before anything runs.

    lr=log:1e-5:1e-2   batch_size=log-int:16:256   warmup_steps=int:0:100   weight_decay=0:0.3   schedule=cosine,linear

Imports neither torch nor Optuna: a space knows its values, the study turns it into distributions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter as Argument
from typing import Any

from ampguard.errors import ConfigError, did_you_mean
from ampguard.training.config import TrainConfig

SEARCHABLE = (
    "lr", "batch_size", "warmup_steps", "weight_decay", "max_grad_norm", "schedule", "precision", "ema",
    "micro_batch_size", "plateau_patience", "plateau_factor", "init_scale", "growth_interval", "early_stop",
    "early_stop_delta",
)  # fmt: skip
"""Options of train that decide how a run learns; the others decide where it runs and what it writes."""

TASK = "task."
"""Prefix of the Task's own options."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two ends, both included."""

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Integers only."""

    def __post_init__(self) -> None:
        """Refuse ranges that hold nothing."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ConfigError(f"space {self.name}: {self.low:g} to {self.high:g} is no finite range.")
        if self.low > self.high:
            raise ConfigError(
                f"space {self.name}: low {self.low:g} is above high {self.high:g}.", hint="Give the lower one first."
            )
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ConfigError(
                f"space {self.name}: {self.low:g} to {self.high:g} is no range of integers.", hint="Give whole ends."
            )
        if self.log and self.low <= 0:
            raise ConfigError(
                f"space {self.name}: a log scale cannot reach {self.low:g}.",
                hint="Begin above 0, or leave out log.",
            )

    def __str__(self) -> str:
        kind = "-".join(word for word, is_so in (("log", self.log), ("int", self.whole)) if is_so) or "float"
        return f"{self.name}={kind}:{_exact(self.low)}:{_exact(self.high)}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values."""

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Refuse an empty or doubled choice."""
        if len(set(self.values)) != len(self.values) or not self.values:
            raise ConfigError(f"space {self.name}: {list(self.values)!r} must hold different values.")

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.values))}"


Parameter = Range | Choice
Space = tuple[Parameter, ...]

TEXTS = ("schedule", "precision")
"""Options of train whose values are texts, also where they look like numbers."""

WHOLE = ("batch_size", "micro_batch_size", "warmup_steps", "plateau_patience", "growth_interval", "early_stop")
"""Options of train that are integers."""

_KINDS = {"log": (True, False), "int": (False, True), "log-int": (True, True), "float": (False, False)}


def parse_space(texts: Sequence[str], task_options: Mapping[str, Any]) -> Space:
    """Return the space that texts state.

    Args:
        texts: NAME=RANGE or NAME=CHOICES.
        task_options: Options of the Task, by name.

    Raises:
        ConfigError: A name is unknown or doubled, or a range holds nothing.
    """
    space = tuple(_parameter(text, task_options) for text in texts)
    names = [parameter.name for parameter in space]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"space names {', '.join(doubled)} twice.", hint="Give each once.")
    return space


def _parameter(text: str, task_options: Mapping[str, Any]) -> Parameter:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value:
        raise ConfigError(f"space {text!r} is not NAME=RANGE.", hint="For example lr=log:1e-5:1e-2.")
    name = name if name.startswith(TASK) else name.replace("-", "_")
    _check_name(name, task_options)
    if ":" not in value:
        return Choice(name=name, values=_choices(value, name, task_options))
    first, *rest = (part.strip() for part in value.split(":"))
    log, whole = _KINDS.get(first, (False, False))
    ends = rest if first in _KINDS else [first, *rest]
    if len(ends) != 2:
        raise ConfigError(
            f"space {name}: {value!r} is no range.", allowed=("LOW:HIGH", *(f"{kind}:LOW:HIGH" for kind in _KINDS))
        )
    low, high = (_number(end, name) for end in ends)
    whole = whole or (first not in _KINDS and _is_whole(name, task_options))
    return Range(name=name, low=low, high=high, log=log, whole=whole)


def _check_name(name: str, task_options: Mapping[str, Any]) -> None:
    known = [*SEARCHABLE, *(f"{TASK}{option}" for option in task_options)]
    if name in known:
        return
    if name in {field.name for field in fields(TrainConfig)}:
        raise ConfigError(
            f"space names {name!r}, an option of train that decides where or how long a run runs, not how it learns.",
            allowed=known,
        )
    hint = did_you_mean(name, known)
    if name.startswith(TASK) and not task_options:
        hint = "The Task has no options here: give it as PATH:build, in Python as tune(build=build)."
    raise ConfigError(f"space names {name!r}, which is unknown.", allowed=known, hint=hint)


def _is_whole(name: str, task_options: Mapping[str, Any]) -> bool:
    return name in WHOLE or _kind(name, task_options) is int


def _kind(name: str, task_options: Mapping[str, Any]) -> Any:
    """Return the type of an option of the Task, by its annotation, else by its default; None: unknown."""
    option = task_options.get(name.removeprefix(TASK)) if name.startswith(TASK) else None
    if option is None:
        return None
    return option.annotation if option.annotation is not Argument.empty else type(option.default)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"space {name}: {text!r} is no number.", hint="For example lr=log:1e-5:1e-2.") from None


def _choices(text: str, name: str, task_options: Mapping[str, Any]) -> tuple[Any, ...]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    is_text = name in TEXTS or _kind(name, task_options) is str
    return tuple(items if is_text else map(_value, items))


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _exact(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def ends_of(parameter: Parameter) -> tuple[Any, ...]:
    """Return the values that stand for all: both ends of a range, or each choice."""
    if isinstance(parameter, Choice):
        return parameter.values
    return tuple(int(end) if parameter.whole else end for end in (parameter.low, parameter.high))


def is_within(value: Any, parameter: Parameter) -> bool:
    """Return whether a parameter can have a value."""
    if isinstance(parameter, Choice):
        return any(
            value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in parameter.values
        )
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and parameter.low <= value <= parameter.high


def split_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (options of train, options of the Task) of a trial's parameters."""
    options = {name: value for name, value in params.items() if not name.startswith(TASK)}
    own = {name.removeprefix(TASK): value for name, value in params.items() if name.startswith(TASK)}
    return options, own
