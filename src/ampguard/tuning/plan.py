"""What a search is going to do, decided and checked before anything is written: options, space, default, precision."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter as Argument
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch

from ampguard.errors import ConfigError, TaskError
from ampguard.hardware import inspect, pick_device
from ampguard.precision import resolve
from ampguard.precision.names import canonical
from ampguard.task import Task
from ampguard.tasks.load import users_code
from ampguard.tracking import make_tracker
from ampguard.training import setup
from ampguard.training.config import VALIDATIONS, WARMUP_FRACTION, TrainConfig
from ampguard.training.config import make_config as make_train_config
from ampguard.training.data import open_train_data, to_device
from ampguard.training.data.sampled import Samples, is_samples, take_apart
from ampguard.training.monitor import Monitor
from ampguard.tuning.config import TuneConfig
from ampguard.tuning.ignored import why_ignored
from ampguard.tuning.space import TASK, Choice, Parameter, Space, ends_of, is_within, parse_space

DEFAULT = "default"
"""The word for the default space, beside others."""

FEWEST = 2
"""Validations of a trial below which no pruner can decide anything."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search, before it begins."""

    task: Task
    """With its default options."""
    config: TuneConfig
    """With what was left open decided: space, precision, threads."""
    options: Mapping[str, Any]
    """Options of train in every trial, under what is searched."""
    space: Space
    default: Mapping[str, Any]
    """Parameters of trial 0: those whose default lies within the space."""
    validations: int
    """Validations of a whole trial."""
    warnings: tuple[str, ...]


def make_plan(build: Callable[..., Any], task_options: Mapping[str, Any], config: TuneConfig) -> Plan:
    """Return what a search is going to do.

    Raises:
        ConfigError: An option or the space cannot be.
        TaskError: The Task cannot be built.
    """
    with users_code("building the Task", Path.cwd()):
        task = build(**task_options)
    if not isinstance(task, Task):
        raise TaskError(f"tune got a {type(task).__name__}, not a Task.", hint="Call what builds it: tune(build()).")
    if task.val_data is None:
        raise TaskError(f"Task {task.name!r} has no val_data, and a search goes by validation.", hint="Give it some.")
    threads = config.threads or max(1, torch.get_num_threads() // config.workers)
    config = replace(config, threads=threads, precision=_precision(task, config))
    options = _options(task, config)
    base = make_train_config(options, task)
    Monitor(base, task)
    for tracker in config.track:
        make_tracker(tracker, Path())
    own = _options_of(build)
    samples = take_apart(task.train_data, None, None) if is_samples(task.train_data) else None
    space, warnings = _space(own, task, options, config, samples)
    default, left_open = _default(space, base, {**_defaults(own), **task_options}, samples)
    return Plan(
        task=task,
        config=replace(config, space=tuple(map(str, space))),
        options=options,
        space=space,
        default=default,
        validations=_validations(base),
        warnings=(*warnings, *left_open),
    )


def _options_of(build: Callable[..., Any]) -> Mapping[str, Argument]:
    """Return the options that a Task can be built with, by name."""
    held: Mapping[str, Argument] | None = getattr(build, "options", None)
    return signature(build).parameters if held is None else held


def _defaults(options: Mapping[str, Argument]) -> dict[str, Any]:
    return {name: option.default for name, option in options.items() if option.default is not Argument.empty}


def _options(task: Task, config: TuneConfig) -> dict[str, Any]:
    """Return the options of train that all trials share."""
    options: dict[str, Any] = {
        "steps": config.steps,
        "seed": config.seed,
        "device": config.device,
        "threads": config.threads,
        "precision": config.precision,
        "on_collapse": "raise",
        "monitor": config.metric,
        "monitor_mode": config.direction[:3],
        "track": config.track or None,
        "report": config.trial_reports,
    }
    options = {name: value for name, value in options.items() if value is not None}
    base = make_train_config(options, task)
    if base.steps is not None and base.validate_every is not None and _validations(base) < FEWEST:
        options["validate_every"] = max(1, -(-base.steps // VALIDATIONS))
    return {**options, "on_unsupported": _strictly(base)}


def _strictly(base: TrainConfig) -> Literal["error", "emulate"]:
    """Return what to do with a precision that this device lacks: a fallback would be a trial of another one."""
    return "emulate" if base.on_unsupported == "emulate" else "error"


def _validations(base: TrainConfig) -> int:
    if base.steps is None:
        return VALIDATIONS
    return -(-base.steps // (base.validate_every or max(1, -(-base.steps // VALIDATIONS))))


def _precision(task: Task, config: TuneConfig) -> str:
    """Return the precision that the one asked for stands for here."""
    base = make_train_config({"precision": config.precision, "device": config.device, "steps": config.steps}, task)
    device = pick_device(base.device)
    if base.precision != "auto":
        return resolve(base.precision, inspect(device), on_unsupported=_strictly(base)).granted
    with setup.kept_process():
        torch.set_num_threads(config.threads or torch.get_num_threads())
        setup.seed_everything(config.seed, deterministic=False)
        batch = open_train_data(task, batch_size=base.batch_size, seed=config.seed).peek()
        model = task.model().to(device).train()
        return setup.decide_precision(task, model, to_device(batch, device), base, device).granted


def _space(
    own: Mapping[str, Argument], task: Task, options: Mapping[str, Any], config: TuneConfig, samples: Samples | None
) -> tuple[Space, list[str]]:
    """Return the space, and what of the default one is not searched.

    Raises:
        ConfigError: Something that was asked for is unknown, cannot be, or would change nothing.
    """
    base = make_train_config(options, task)
    named = tuple(map(_canonical, parse_space([text for text in config.space if text != DEFAULT], own)))
    taken = {parameter.name for parameter in named}
    usual = _usual(base, samples) if not config.space or DEFAULT in config.space else ()
    usual = tuple(parameter for parameter in usual if parameter.name not in taken)
    searched = frozenset(parameter.name for parameter in (*usual, *named))
    why = {p.name: why_ignored(p, task, base, searched) for p in (*usual, *named)}
    if ignored := [f"{p.name}: {why[p.name]}" for p in named if why[p.name]]:
        raise ConfigError(
            f"Task {task.name!r} ignores what is searched: {'; '.join(ignored)}.", hint="Leave it out of the space."
        )
    for parameter in named:
        _check_values(parameter, task, options, samples)
    space = tuple(parameter for parameter in (*usual, *named) if not why[parameter.name])
    if not space:
        raise ConfigError(f"nothing is left to search for Task {task.name!r}.", hint="Give --space NAME=LOW:HIGH.")
    return space, [f"{p.name} is not searched: {why[p.name]}." for p in usual if why[p.name]]


def _canonical(parameter: Parameter) -> Parameter:
    """Return a parameter with precisions by their own names: bf16 is bf16-mixed."""
    if parameter.name != "precision" or not isinstance(parameter, Choice):
        return parameter
    return replace(parameter, values=tuple(map(canonical, parameter.values)))


def _usual(base: TrainConfig, samples: Samples | None) -> Space:
    """Return the default space, around the Task's own values."""
    lr, size, steps = base.lr or 1e-3, _batch_size(base, samples), _steps(base, samples)
    lr_high = 1e-2 if lr <= 1e-2 else 10 * lr
    texts = [f"lr=log:1e-05:{lr_high!r}", "weight_decay=0:0.3"]
    low, high = max(1, size // 4), min(4 * size, len(samples)) if samples is not None else 0
    if low < high:
        texts.insert(1, f"batch_size=log-int:{low}:{high}")
    if steps is not None and steps >= 5:
        texts.insert(-1, f"warmup_steps=int:0:{steps // 5}")
    return parse_space(texts, {})


def _batch_size(base: TrainConfig, samples: Samples | None) -> int:
    return 1 if samples is None else samples.resolve(base.batch_size)


def _steps(base: TrainConfig, samples: Samples | None) -> int | None:
    """Return the steps of a trial; None where the length of the data is unknown."""
    if base.steps is not None or samples is None:
        return base.steps
    return (base.epochs or 1) * -(-len(samples) // _batch_size(base, samples))


def _check_values(parameter: Parameter, task: Task, options: Mapping[str, Any], samples: Samples | None) -> None:
    """Refuse values that no trial could be trained with, as train does.

    Raises:
        ConfigError: There is one.
    """
    if parameter.name.startswith(TASK):
        return
    base = make_train_config(options, task)
    for value in ends_of(parameter):
        if parameter.name == "precision":
            resolve(value, inspect(pick_device(base.device)), on_unsupported=_strictly(base))
        try:
            make_train_config({**options, parameter.name: value}, task)
        except ConfigError as error:
            raise ConfigError(f"space {parameter}: {error.message}", allowed=error.allowed, hint=error.hint) from error
        if parameter.name == "batch_size" and samples is not None and value > len(samples):
            raise ConfigError(f"space {parameter}: Task {task.name!r} has {len(samples)} training samples.")


def _default(
    space: Space, base: TrainConfig, task_options: Mapping[str, Any], samples: Samples | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters of the default configuration, and why some are not among them."""
    found: dict[str, Any] = {}
    warnings = []
    for parameter in space:
        value = _own_value(parameter.name, base, task_options, samples)
        if value is not None and is_within(value, parameter):
            found[parameter.name] = value
        else:
            known = "" if value is None else f", {value},"
            warnings.append(f"trial 0 has the default {parameter.name}{known} which is not in the space.")
    return found, warnings


def _own_value(name: str, base: TrainConfig, task_options: Mapping[str, Any], samples: Samples | None) -> Any:
    if name.startswith(TASK):
        return task_options.get(name.removeprefix(TASK))
    if name == "batch_size" and samples is not None:
        return _batch_size(base, samples)
    value, steps = getattr(base, name), _steps(base, samples)
    if value is None and name == "warmup_steps" and steps is not None:
        return min(math.ceil(WARMUP_FRACTION * steps), 1000)
    return value
