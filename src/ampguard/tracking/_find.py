"""Find a tracker by what a person types: the name of a member, or `my_tracker.py:MyTracker` for a class of their own.

A member is a public module of this package that defines one public Tracker. Importing it imports no package of a
service: that is for the constructor.
"""

import hashlib
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from ampguard.errors import ConfigError, did_you_mean
from ampguard.tracking._base import Tracker

_HERE = Path(__file__).parent


def tracker_names() -> tuple[str, ...]:
    """Return the names of all members, sorted: the public modules of this package."""
    return tuple(sorted(module.name for module in iter_modules([str(_HERE)]) if not module.name.startswith("_")))


def make_tracker(name: str, run_dir: Path) -> Tracker:
    """Return a tracker for the run in `run_dir`.

    Raises:
        ConfigError: There is no tracker of that name.
        Exception: What its constructor raises: MissingExtraError, or whatever its package does.
    """
    return find_tracker(name)(run_dir)


def find_tracker(name: str) -> type[Tracker]:
    """Return the class of a tracker.

    Args:
        name: A member, `FILE.py:CLASS` or `MODULE:CLASS`.

    Raises:
        ConfigError: There is no such tracker, file, module or class, or importing it raised.
    """
    if ":" in name:
        return _users_own(name)
    names = tracker_names()
    if name not in names:
        hint = did_you_mean(name, names) or "For one of your own give my_tracker.py:MyTracker."
        raise ConfigError(f"there is no tracker {name!r}.", allowed=names, hint=hint)
    module = import_module(f"ampguard.tracking.{name}")
    (member,) = _trackers_in(module)
    return member


def label(name: str) -> str:
    """Return a tracker's name as a file name: `a/b.py:Mine` as `b.Mine`, wherever it was named from."""
    module, colon, tracker = name.rpartition(":")
    return f"{Path(module).stem if module.endswith('.py') else module}.{tracker}" if colon else name


def _users_own(name: str) -> type[Tracker]:
    place, _, wanted = name.rpartition(":")
    try:
        module = _of_file(Path(place).expanduser()) if place.endswith(".py") else _of_name(place)
    except Exception as error:
        raise ConfigError(f"the tracker {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    found = vars(module).get(wanted)
    if isinstance(found, type) and issubclass(found, Tracker):
        return found
    own = [tracker.__name__ for tracker in _trackers_in(module)]
    hint = did_you_mean(wanted, own) or "Derive a class from ampguard.tracking.Tracker there."
    raise ConfigError(f"{place!r} defines no tracker {wanted!r}.", allowed=own, hint=hint)


def _of_name(name: str) -> ModuleType:
    """Import a module; the current folder is searched first."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(Path.cwd()))


def _of_file(path: Path) -> ModuleType:
    """Import a file under a name made of its path: it is one module however often it is asked for."""
    path = path.resolve(strict=True)
    name = f"ampguard_tracker_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    if name in sys.modules or spec is None or spec.loader is None:
        return sys.modules[name]
    sys.modules[name] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _trackers_in(module: ModuleType) -> list[type[Tracker]]:
    """Return the public Trackers that `module` defines, not those that it imports."""
    return [value for name, value in vars(module).items() if not name.startswith("_") and _is_of(module, value)]


def _is_of(module: ModuleType, value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Tracker) and value.__module__ == module.__name__
