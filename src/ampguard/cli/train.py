"""`ampguard train [TASK]`: flags from TrainConfig and from the Task's own `build`."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter as Argument
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ampguard.cli.progress import make_progress
from ampguard.cli.streams import print_json, stdout
from ampguard.cli.summary import summary
from ampguard.cli.task_flags import DEFAULT_TASK, flags_of, given, options_of, target_of, value_of
from ampguard.errors import ConfigError, MissingExtraError, did_you_mean
from ampguard.records import RunRecord
from ampguard.run_folder import read_run, train_command
from ampguard.training import TrainConfig

EXIT_CODES = {"finished": 0, "stopped_early": 0, "interrupted": 130, "preempted": 75, "failed": 3}
_SWITCH = Parameter(negative="")


def make_command(tokens: Sequence[str]) -> Callable[..., int]:
    """Return the command, with the options of the Task that `tokens` name."""
    is_train = bool(tokens) and tokens[0] == "train"
    resumed = value_of(tokens, "--resume") if is_train else None
    taken_over = resumed is not None and resumed != "auto"
    target = target_of(tokens) if is_train else DEFAULT_TASK
    known = {} if taken_over or not is_train else options_of(target)
    task_options = flags_of(target, known)
    file = value_of(tokens, "--config") if is_train else None
    from_file = _read_config(Path(file), known) if file else {}

    def train(
        target: str = DEFAULT_TASK,
        /,
        *,
        options: Any = None,
        task: Any = None,
        config: Path | None = None,
        format: str = "text",
        quiet: bool = False,
        debug: bool = False,
    ) -> int:
        """Train a Task in the precision that suits this device, and leave a run folder.

        Args:
            target: text, digits, or PATH:build, where PATH is a module or a .py file; named first.
            options: How to train.
            task: Options of the Task.
            config: TOML file that holds any of these options; flags given here go before it.
            format: What stdout gets: a summary, or the RunRecord as one JSON object.
            quiet: No progress and no warnings.
            debug: Show ampguard's own frames in errors.
        """
        del config, debug
        chosen = {**from_file.get("task", {}), **given(task, tokens, "task.")}
        flags = {**{k: v for k, v in from_file.items() if k != "task"}, **given(options, tokens)}
        record, command = _train(target, chosen, flags, make_progress(quiet=quiet))
        _answer(record, command, as_json=format == "json", quiet=quiet)
        return EXIT_CODES[record.status]

    train.__annotations__ |= {
        "options": Annotated[TrainConfig | None, Parameter(name="*", negative_iterable=())],
        "task": Annotated[task_options, Parameter(name="--task")],
        "format": Literal["text", "json"],
        "quiet": Annotated[bool, _SWITCH],
        "debug": Annotated[bool, _SWITCH],
    }
    train.__kwdefaults__ = {**(train.__kwdefaults__ or {}), "task": task_options()}
    return train


def _train(
    target: str, task_options: Mapping[str, Any], flags: Mapping[str, Any], progress: Any
) -> tuple[RunRecord, str]:
    """Train; return the record and the command that trains this Task: a resumed run names its own."""
    run_train, find_task = _torch_side()
    resume = flags.get("resume")
    if resume not in (None, "auto"):
        origin = read_run(Path(resume))["task"]
        if "target" not in origin:
            raise ConfigError(
                f"the Task of {resume} was given in Python, and a folder cannot name it.",
                hint=f"Call ampguard.train(task, resume={str(resume)!r}).",
            )
        target, task_options = origin["target"], origin.get("options", {})
    task = find_task(target)(**task_options)
    origin = {"target": target, "options": dict(task_options)}
    return run_train(task, origin=origin, progress=progress, **flags), train_command(origin)


def _torch_side() -> tuple[Any, Any]:
    try:
        from ampguard.tasks import find_task
        from ampguard.training import train
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "train") from error
    return train, find_task


def _read_config(path: Path, task_options: Mapping[str, Argument]) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path} is no TOML: {error}.") from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    known = [item.name for item in fields(TrainConfig)]
    for name in values:
        if name not in (*known, "task"):
            raise ConfigError(f"{path} has an unknown option {name!r}.", allowed=known, hint=did_you_mean(name, known))
    for name in values.get("task", {}):
        if name not in task_options:
            hint = did_you_mean(name, list(task_options))
            raise ConfigError(f"{path} has an unknown Task option {name!r}.", allowed=task_options, hint=hint)
    return values


def _answer(record: RunRecord, command: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(record.as_dict())
    elif not quiet:
        stdout().print(summary(record, command))
