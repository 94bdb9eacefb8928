"""The good practices: one file each, found by place."""

import inspect
import pkgutil
from functools import cache
from importlib import import_module

from ampguard.auditing.practices._base import Practice

__all__ = ["Practice", "all_practices"]


@cache
def all_practices() -> tuple[Practice, ...]:
    """Return one object of every practice, sorted by name.

    Raises:
        TypeError: A file does not hold exactly one practice.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return tuple(_practice_in(name) for name in names)


def _practice_in(name: str) -> Practice:
    module = import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Practice) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} holds {len(found)} practices; a practice is one file")
    practice: Practice = found[0]()
    return practice
