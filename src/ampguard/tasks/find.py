"""Find a Task by what a person types: the name of a built-in one, or `PATH:build`.

PATH is a module name or a `.py` file; `:build` may be left out for a file. `build` is a function that returns a Task,
or one of the things that `doors` turns into one: `PATH:LitModel`. A built-in Task is a module of this folder with a
function `build`: adding a file adds a Task. What is found is a `Builder`: its options are the parameters of
`build`, so that a command can list and convert them, and calling it returns the Task.

Whatever the user's code raises is a TaskError whose `__cause__` is that exception, with a traceback that starts at
the user's own first frame.

Left out: converting options from text; a command does that by their annotations.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ampguard.errors import MissingExtraError, TaskError, did_you_mean
from ampguard.task import Task
from ampguard.tasks.doors import LIGHTNING, datamodules_in, is_a, open_door
from ampguard.tasks.load import import_file, import_named, users_code

_HERE = Path(__file__).parent
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """What builds a Task, with the options that it takes."""

    target: str
    """What it was found by: `text`, `my_task.py:build`."""
    build: Callable[..., Any]
    """The function itself, or a LightningModule class."""
    datamodules: Mapping[str, type] = field(default_factory=dict)
    """Data modules of the same file; their names are the values of the option `datamodule`."""
    folder: Path = field(default_factory=Path.cwd)
    """Importable while it runs."""

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Options by name: annotation and default as written; `Parameter.empty` where there is none."""
        own = {name: option for name, option in self._parameters().items() if option.kind not in _VARIADIC}
        return {**own, **self._choice()} if "datamodule" not in own else own

    def __call__(self, **options: Any) -> Task:
        """Build the Task.

        Raises:
            TaskError: An option is unknown or missing, `build` raised, or it returned no Task.
        """
        self._check(options)
        datamodule = options.pop("datamodule", None) if "datamodule" not in self._parameters() else None
        with users_code(f"building the Task '{self.target}'", self.folder):
            task = open_door(self.build, options, self.datamodules, datamodule)
        if not isinstance(task, Task):
            raise TaskError(
                f"'{self.target}' returned {type(task).__name__}, not an ampguard.Task.",
                hint="End it with: return ampguard.Task(model=..., loss=..., train_data=..., name=...)",
            )
        return task

    def _check(self, options: Mapping[str, Any]) -> None:
        known, parameters = self.options, self._parameters().values()
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        for name in options:
            if name not in known and not takes_any:
                raise TaskError(
                    f"the Task '{self.target}' has no option '{name}'.",
                    allowed=known,
                    hint=did_you_mean(name, list(known)) or ("" if known else "It takes no options."),
                )
        missing = [name for name, option in known.items() if option.default is option.empty and name not in options]
        if missing:
            raise TaskError(
                f"the Task '{self.target}' needs the option '{missing[0]}'.",
                hint=f"Give it: --task.{missing[0]} VALUE.",
            )

    def _choice(self) -> Mapping[str, inspect.Parameter]:
        if not self.datamodules:
            return {}
        name, names = "datamodule", Literal.__getitem__(tuple(self.datamodules))
        return {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=names)}

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.build, eval_str=True).parameters
        except NameError:
            # An annotation that exists for type checkers only: leave all of them as text.
            return inspect.signature(self.build).parameters


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in Tasks, sorted. Imports none of them."""
    return tuple(sorted(file.stem for file in _HERE.glob("*.py") if _has_build(file)))


def find_task(target: str) -> Builder:
    """Return the builder of a Task.

    Args:
        target: The name of a built-in Task, `PATH.py`, `PATH.py:FUNCTION` or `MODULE:FUNCTION`.

    Raises:
        TaskError: There is no such Task, file, module or function, or importing it raised.
        MissingExtraError: A built-in Task needs torch, which is not installed.
    """
    path, colon, function = target.rpartition(":") if ":" in target else (target, "", "build")
    if path.endswith(".py"):
        file = Path(path).expanduser()
        return _builder(target, import_file(file), function or "build", file.resolve().parent)
    if colon and function and all(part.isidentifier() for part in path.split(".")):
        return _builder(target, import_named(path), function, Path.cwd())
    if target in builtin_names():
        return _builtin(target)
    raise TaskError(
        f"there is no Task '{target}'.",
        allowed=builtin_names(),
        hint=did_you_mean(target, builtin_names()) or "For one of your own give PATH:build, as in my_task.py:build.",
    )


def _builtin(name: str) -> Builder:
    try:
        module = importlib.import_module(f"ampguard.tasks.{name}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "train", f"The Task '{name}'") from error
    return Builder(target=name, build=module.build)


def _builder(target: str, module: Any, function: str, folder: Path) -> Builder:
    build = getattr(module, function, None)
    if callable(build):
        return Builder(target=target, build=build, folder=folder, datamodules=datamodules_in(module))
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    functions = sorted(name for name in own if _builds(getattr(module, name)))
    raise TaskError(
        f"'{target}': there is no function '{function}' in '{module.__file__}'.",
        allowed=functions,
        hint=did_you_mean(function, functions) or "Define build(), which returns an ampguard.Task.",
    )


def _builds(value: Any) -> bool:
    return inspect.isfunction(value) or is_a(value, "LightningModule", *LIGHTNING)


def _has_build(file: Path) -> bool:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in tree.body)
