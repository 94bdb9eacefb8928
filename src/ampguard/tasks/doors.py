"""What people have instead of a Task, told by the names of classes: no library is imported to recognise its own.

A LightningModule class, a function that returns a LightningModule, and a function that returns a Trainer of
transformers stand for the Task that `Task.from_lightning` and `Task.from_hf` make of them.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ampguard.errors import TaskError, did_you_mean
from ampguard.task import Task

LIGHTNING = ("lightning", "pytorch_lightning")
"""Two names of one library, and two class trees."""


def is_a(value: Any, name: str, *libraries: str) -> bool:
    """Return whether a value, or a class, is of the class `name` of one of the libraries (top-level packages)."""
    classes = (value if isinstance(value, type) else type(value)).__mro__
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] in libraries for cls in classes)


def datamodules_in(module: ModuleType) -> dict[str, type]:
    """Return the LightningDataModule classes of a file, its own and those it imports, by name."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {
        name: cls
        for name, cls in classes.items()
        if is_a(cls, "LightningDataModule", *LIGHTNING) and cls.__module__.partition(".")[0] not in LIGHTNING
    }


def open_door(
    build: Callable[..., Any], options: Mapping[str, Any], datamodules: Mapping[str, type], datamodule: str | None
) -> Any:
    """Return the Task of what `build` makes; anything that has no door is returned as it is.

    Args:
        build: The user's class or function.
        options: Its arguments.
        datamodules: The data modules of its file.
        datamodule: Which of them; None: the only one, if there is one.

    Raises:
        TaskError: `datamodule` is not in the file, or there are several and none is named.
    """
    built = build if is_a(build, "LightningModule", *LIGHTNING) else build(**options)
    if is_a(built, "LightningModule", *LIGHTNING):
        return Task.from_lightning(build, _chosen(datamodules, datamodule), **options)
    if datamodule is not None:
        raise TaskError(f"datamodule {datamodule!r} was named for something that is no LightningModule.")
    return Task.from_hf(built) if is_a(built, "Trainer", "transformers") else built


def _chosen(datamodules: Mapping[str, type], name: str | None) -> type | None:
    if name is None and len(datamodules) < 2:
        return next(iter(datamodules.values()), None)
    if name is None:
        found = f"the file has {len(datamodules)} data modules."
        raise TaskError(found, allowed=datamodules, hint="Choose: --task.datamodule NAME.")
    if name not in datamodules:
        hint = did_you_mean(name, list(datamodules))
        raise TaskError(f"there is no data module {name!r}.", allowed=datamodules, hint=hint)
    return datamodules[name]
