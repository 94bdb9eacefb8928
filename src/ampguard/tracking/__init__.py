"""Where the numbers of a run go: the Tracker contract, and its members by name.

A tracker is a module of this package that defines one `Tracker`; the module's name is the tracker's name, so
there is no list to edit. Nothing here imports torch.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from ampguard.errors import ConfigError, did_you_mean
from ampguard.tracking._base import NullTracker, Row, Tracker
from ampguard.tracking._rows import read_rows

__all__ = ["NullTracker", "Row", "Tracker", "make_tracker", "read_rows", "tracker_names"]


def tracker_names() -> tuple[str, ...]:
    """Return the names of all trackers, sorted: the public modules of this package."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


def make_tracker(name: str, run_dir: Path) -> Tracker:
    """Return the tracker called `name` for the run in `run_dir`.

    Raises:
        ConfigError: There is no tracker of that name.
    """
    names = tracker_names()
    if name not in names:
        raise ConfigError(f"there is no tracker {name!r}.", allowed=names, hint=did_you_mean(name, names))
    module = import_module(f"{__name__}.{name}")
    (member,) = (value for value in vars(module).values() if _is_defined_in(module, value))
    tracker: Tracker = member(run_dir)
    return tracker


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    """Say whether `value` is the Tracker that `module` defines, not one that it imports."""
    return isinstance(value, type) and issubclass(value, Tracker) and value.__module__ == module.__name__
