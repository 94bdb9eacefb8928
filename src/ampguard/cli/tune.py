"""`ampguard tune [TASK]`: flags from TuneConfig and from the Task's own `build`; the best configuration as a file."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ampguard.cli.streams import print_json, stdout
from ampguard.cli.task_flags import DEFAULT_TASK, flags_of, given, options_of, target_of
from ampguard.cli.tune_table import importance_table, trials_table
from ampguard.cli.tune_watch import make_watch
from ampguard.errors import ConfigError, MissingExtraError
from ampguard.tuning.config import TuneConfig, make_config, space_texts

if TYPE_CHECKING:
    from ampguard.tuning.report import TuneReport

_SWITCH = Parameter(negative="")
EXIT_CODES = {"finished": 0, "interrupted": 130, "preempted": 75}
NO_ANSWER = 1
"""Exit code of a search that is finished and has no complete trial."""


def make_command(tokens: Sequence[str]) -> Callable[..., int]:
    """Return the command, with the options of the Task that `tokens` name."""
    is_tune = bool(tokens) and tokens[0] == "tune"
    target_here = target_of(tokens) if is_tune else DEFAULT_TASK
    task_options = flags_of(target_here, options_of(target_here) if is_tune else {})

    def tune(
        target: str = DEFAULT_TASK,
        /,
        *,
        options: Any = None,
        task: Any = None,
        space_file: Path | None = None,
        format: str = "text",
        quiet: bool = False,
        debug: bool = False,
    ) -> int:
        """Search for the best hyperparameters of a Task, and say whether they beat the default.

        Args:
            target: text, digits, or PATH:build, where PATH is a module or a .py file; named first.
            options: What to search, and how.
            task: Options of the Task in every trial, unless they are searched.
            space_file: TOML file whose table [space] holds what to search, as lr = "log:1e-5:1e-2".
            format: What stdout gets: tables, or the result as one JSON object.
            quiet: No progress and no warnings.
            debug: Show ampguard's own frames in errors.
        """
        del debug
        flags = given(options, tokens)
        if space_file is not None:
            flags["space"] = (*_read_space(space_file), *flags.get("space", ()))
        report = _tune(target, given(task, tokens, "task."), flags, quiet=quiet)
        if format == "json":
            print_json(report.as_dict())
        elif not quiet:
            _tell(report)
        return _exit_code(report)

    tune.__annotations__ |= {
        "options": Annotated[TuneConfig | None, Parameter(name="*", negative_iterable=(), negative_bool="")],
        "task": Annotated[task_options, Parameter(name="--task")],
        "format": Literal["text", "json"],
        "quiet": Annotated[bool, _SWITCH],
        "debug": Annotated[bool, _SWITCH],
    }
    tune.__kwdefaults__ = {**(tune.__kwdefaults__ or {}), "task": task_options()}
    return tune


def _read_space(path: Path) -> tuple[str, ...]:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"space file {path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"space file {path} is no TOML: {error}.") from error
    table = values.get("space")
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"space file {path} has no table [space].", hint='Write [space] and lr = "log:1e-5:1e-2".')
    return space_texts(table)


def _tune(target: str, task_options: Mapping[str, Any], flags: Mapping[str, Any], *, quiet: bool) -> "TuneReport":
    make_config(flags)
    try:
        from ampguard.tasks import find_task
        from ampguard.tuning.run import tune
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train", "tune") from error
    build = find_task(target)
    return tune(
        build=build, task_options=task_options, origin={"target": target}, watch=make_watch(quiet=quiet), **flags
    )


def _tell(report: "TuneReport") -> None:
    console = stdout()
    console.print(trials_table(report))
    console.print(importance_table(report))
    for attempt in report.lost:
        console.print(f"trial {attempt.number}: {attempt.reason}; run again as trial {attempt.again_as}", markup=False)
    console.print(report.verdict, style="bold", markup=False)
    if report.command is not None:
        console.print(f"train it: {report.command}", markup=False, soft_wrap=True)
    if report.resume_command is not None:
        console.print(f"go on: {report.resume_command}", markup=False, soft_wrap=True)


def _exit_code(report: "TuneReport") -> int:
    if report.status == "finished" and report.best is None:
        return NO_ANSWER
    return EXIT_CODES[report.status]
