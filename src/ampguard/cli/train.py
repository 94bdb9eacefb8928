"""`ampguard train [TASK]`: flags from TrainConfig and from the Task's own `build`."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from inspect import Parameter as Argument
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from docstring_parser import parse

from ampguard.cli.progress import make_progress
from ampguard.cli.streams import print_json, stdout
from ampguard.cli.summary import summary
from ampguard.errors import ConfigError, MissingExtraError, did_you_mean
from ampguard.records import RunRecord
from ampguard.training import TrainConfig

DEFAULT_TASK = "text"
EXIT_CODES = {"finished": 0, "stopped_early": 0, "interrupted": 130, "preempted": 75, "failed": 3}
_SWITCH = Parameter(negative="")


def long_names(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with `--size X` written as `--task.size X`."""
    return [_long(token) for token in tokens]


def _long(token: str) -> str:
    name, equals, value = token.partition("=")
    return f"--task.size{equals}{value}" if name == "--size" else token


def make_command(tokens: Sequence[str]) -> Callable[..., int]:
    """Return the command, with the options of the Task that `tokens` name."""
    is_train = bool(tokens) and tokens[0] == "train"
    resumed = _value_of(tokens, "--resume") if is_train else None
    taken_over = resumed is not None and resumed != "auto"
    target = _target(tokens) if is_train else DEFAULT_TASK
    known = {} if taken_over or not is_train else _options_of(target)
    task_options = _as_dataclass(known, _described(target) if known else {})
    file = _value_of(tokens, "--config") if is_train else None
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
        given = _given(options, TrainConfig()) if options is not None else {}
        chosen = {**from_file.get("task", {}), **_given(task, task_options())}
        flags = {**{k: v for k, v in from_file.items() if k != "task"}, **given}
        record = _train(target, chosen, flags, make_progress(quiet=quiet))
        _answer(record, target, as_json=format == "json", quiet=quiet)
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


def _train(target: str, task_options: Mapping[str, Any], flags: Mapping[str, Any], progress: Any) -> RunRecord:
    run_train, find_task, read_run = _torch_side()
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
    return run_train(task, origin=origin, progress=progress, **flags)  # type: ignore[no-any-return]


def _torch_side() -> tuple[Any, Any, Any]:
    try:
        from ampguard.tasks import find_task
        from ampguard.training import train
        from ampguard.training.folder import read_run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "train") from error
    return train, find_task, read_run


def _target(tokens: Sequence[str]) -> str:
    return tokens[1] if len(tokens) > 1 and not tokens[1].startswith("-") else DEFAULT_TASK


def _value_of(tokens: Sequence[str], flag: str) -> str | None:
    for index, token in enumerate(tokens):
        if token == flag and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{flag}="):
            return token.partition("=")[2]
    return None


def _options_of(target: str) -> Mapping[str, Argument]:
    try:
        from ampguard.tasks import find_task
    except ModuleNotFoundError:
        return {}
    options: Mapping[str, Argument] = find_task(target).options
    return options


def _described(target: str) -> Mapping[str, str]:
    """Return what `build`'s docstring says of each option."""
    from ampguard.tasks import find_task

    text = parse(find_task(target).build.__doc__ or "")
    return {item.arg_name: item.description or "" for item in text.params}


def _as_dataclass(options: Mapping[str, Argument], described: Mapping[str, str]) -> type:
    """Return `build`'s signature as a dataclass, which becomes the flags --task.NAME."""
    members = []
    for name, argument in options.items():
        kind = str if argument.annotation is Argument.empty else argument.annotation
        default = None if argument.default is Argument.empty else argument.default
        kind = kind if default is not None else kind | None
        kind = Annotated[kind, Parameter(help=described.get(name) or f"Option {name} of build.")]
        members.append((name, kind, field(default=default)))
    made = make_dataclass("TaskOptions", members, frozen=True, kw_only=True)
    # make_dataclass says the class is of `types`, and cyclopts takes the classes of the standard library for values.
    made.__module__ = __name__
    return made


def _given(value: Any, default: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults: what the user said."""
    names = [item.name for item in fields(value)] if value is not None else []
    return {name: getattr(value, name) for name in names if getattr(value, name) != getattr(default, name)}


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


def _answer(record: RunRecord, target: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(record.as_dict())
    elif not quiet:
        stdout().print(summary(record, target))
