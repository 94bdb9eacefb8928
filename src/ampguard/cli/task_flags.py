"""The Task on a command line: which one is named, and the options of its `build` as the flags --task.NAME.

The command line has to know the flags before it reads them, so the Task is looked up in the bare tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from inspect import Parameter as Argument
from typing import Annotated, Any

from cyclopts import Parameter
from docstring_parser import parse

DEFAULT_TASK = "text"


def long_names(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with `--size X` written as `--task.size X`."""
    return [_long(token) for token in tokens]


def _long(token: str) -> str:
    name, equals, value = token.partition("=")
    return f"--task.size{equals}{value}" if name == "--size" else token


def target_of(tokens: Sequence[str]) -> str:
    """Return the Task that stands behind the command, the first of the tokens; without one, the default."""
    return tokens[1] if len(tokens) > 1 and not tokens[1].startswith("-") else DEFAULT_TASK


def value_of(tokens: Sequence[str], flag: str) -> str | None:
    """Return the value given to a flag; None: it is not there."""
    for index, token in enumerate(tokens):
        if token == flag and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{flag}="):
            return token.partition("=")[2]
    return None


def options_of(target: str) -> Mapping[str, Argument]:
    """Return the options of a Task; none where torch is not installed, which the command says when it runs.

    Raises:
        TaskError: There is no such Task.
    """
    try:
        from ampguard.tasks import find_task
    except ModuleNotFoundError:
        return {}
    options: Mapping[str, Argument] = find_task(target).options
    return options


def flags_of(target: str, options: Mapping[str, Argument]) -> type:
    """Return `build`'s signature as a dataclass, which becomes the flags --task.NAME."""
    described = _described(target) if options else {}
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


def _described(target: str) -> Mapping[str, str]:
    """Return what `build`'s docstring says of each option."""
    from ampguard.tasks import find_task

    text = parse(find_task(target).build.__doc__ or "")
    return {item.arg_name: item.description or "" for item in text.params}


def given(value: Any, tokens: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Return the fields that were typed, those that equal their default too: what the user said.

    Args:
        value: The parsed dataclass, or None.
        tokens: What was typed.
        prefix: Before each flag's name, as in --task.NAME.
    """
    typed = {token.partition("=")[0].replace("_", "-") for token in tokens if token.startswith("--")}
    names = [item.name for item in fields(value)] if value is not None else []
    return {name: getattr(value, name) for name in names if _flags(f"{prefix}{name}".replace("_", "-")) & typed}


def _flags(name: str) -> set[str]:
    head, dot, last = name.rpartition(".")
    return {f"--{name}", f"--{head}{dot}no-{last}"}
