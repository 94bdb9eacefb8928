"""Members of a family, found by their place: every module of a folder without a leading underscore holds one class."""

import inspect
import pkgutil
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


def members(package: str, contract: type[T]) -> list[T]:
    """Return one object of the class that each module of a package holds, in the order of the modules' names.

    Args:
        package: The dotted name of the folder; one that does not exist has no members.
        contract: The class that every member derives from.

    Raises:
        TypeError: A module does not hold exactly one such class.
    """
    try:
        folder = import_module(package)
    except ModuleNotFoundError:
        return []
    names = sorted(info.name for info in pkgutil.iter_modules(folder.__path__) if not info.name.startswith("_"))
    return [_the_one_in(f"{package}.{name}", contract)() for name in names]


def _the_one_in(name: str, contract: type[T]) -> type[T]:
    module = import_module(name)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, contract) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{name} holds {len(found)} classes of {contract.__name__}; each has a file of its own")
    return found[0]
