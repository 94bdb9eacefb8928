"""From the paths that a user gives to the files to audit, each with its name in reports.

Folders are walked for `.py` files; a file that is given is taken whatever its suffix. A name is relative to the
current folder, with "/"; absolute where the file lies outside. A file that is reached twice is taken once. A link
to a folder is not followed: what it leads to inside the audited folders is reached by its own name. What looks
like Python source and cannot be read is listed, never passed over in silence.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ampguard.auditing.findings import Unreadable
from ampguard.auditing.globs import matches
from ampguard.errors import InputError, did_you_mean

STDIN = "-"

SKIPPED = frozenset(
    {".git", ".hg", ".svn", ".bzr", ".venv", "__pycache__", "node_modules", ".tox", ".nox", ".eggs", "__pypackages__"}
    | {".mypy_cache", ".ruff_cache", ".pytest_cache", ".pytype", ".ipynb_checkpoints", ".direnv", ".pixi"}
    | {"site-packages"}
)
"""Names of folders that hold no source of one's own, wherever they lie below a given path."""

_BUILT = frozenset({"build", "dist", "_build"})
"""Skipped unless they are packages: `build/` is where wheels are made, `pip/_internal/build/` is source."""

_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
"""What marks a folder as an environment, whatever its name."""


@dataclass
class Found:
    """What the paths lead to.

    Attributes:
        files: Name in reports -> where the file is, sorted by name.
        unreadable: What looks like source or a folder of it and cannot be read.
        excluded: Whether a glob of the user's left something out.
    """

    files: dict[str, Path] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)
    excluded: bool = False


def discover(paths: Sequence[str | Path], *, exclude: Iterable[str] = ()) -> Found:
    """Return the files that the paths lead to; "-" is left to the caller.

    Args:
        paths: Files and folders.
        exclude: Globs to leave out, given files too.

    Raises:
        InputError: A path does not exist.
    """
    search = _Search(tuple(exclude))
    for path in paths:
        if str(path) != STDIN:
            search.add(str(path))
    return search.result()


class _Search:
    def __init__(self, exclude: tuple[str, ...]) -> None:
        self._exclude = exclude
        self._base = str(Path.cwd())
        self._found = Found()
        self._real: dict[str, tuple[bool, str, str]] = {}
        """Real path -> (reached by a link, name, path): the least is how the file is named."""

    def add(self, path: str) -> None:
        place = Path(path)
        if not place.exists():
            raise _missing(place)
        if place.is_dir():
            self._walk(path)
        else:
            self._take(path, os.path.realpath(path), link=place.is_symlink(), file=place.is_file())

    def result(self) -> Found:
        found = self._found
        found.files = {name: Path(path) for _, name, path in sorted(self._real.values(), key=lambda item: item[1])}
        found.unreadable = sorted(set(found.unreadable), key=lambda item: item.path)
        return found

    def _walk(self, top: str) -> None:
        """Walk one folder that the user gave, and all below it."""
        environment = _is_environment(top) or "site-packages" in Path(top).absolute().parts
        folders = [(top, os.path.realpath(top))]
        while folders:
            folder, real = folders.pop()
            for entry in self._entries(folder):
                here = f"{real.rstrip(os.sep)}{os.sep}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if not self._skips(entry, environment=environment):
                        folders.append((entry.path, here))
                elif entry.is_symlink() and Path(entry.path).is_dir():
                    self._pass_by(entry.path, here)
                elif entry.name.endswith(".py") and not entry.name.startswith(".#"):
                    # A name in ".#" is the lock of an open editor.
                    link = entry.is_symlink()
                    self._take(
                        entry.path, os.path.realpath(entry.path) if link else here, link=link, file=_is_file(entry)
                    )

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as error:
            self._unreadable(folder, _reason(error))
            return []

    def _skips(self, entry: os.DirEntry[str], *, environment: bool) -> bool:
        if entry.name in SKIPPED:
            return not (environment and entry.name == "site-packages")
        if entry.name in _BUILT and not Path(entry.path, "__init__.py").exists():
            return True
        return _is_environment(entry.path) or self._excludes(self._name(entry.path))

    def _excludes(self, name: str) -> bool:
        out = matches(name, self._exclude)
        self._found.excluded |= out
        return out

    def _take(self, path: str, real: str, *, link: bool, file: bool) -> None:
        name = self._name(path)
        if self._excludes(name):
            return
        if not file:
            self._unreadable(path, _not_a_file(Path(path)))
            return
        candidate = (link, name, path)
        self._real[real] = min(candidate, self._real.get(real, candidate))

    def _pass_by(self, path: str, real: str) -> None:
        """Do not follow a link to a folder; list it where it leads to a folder that it lies in."""
        target = os.path.realpath(path).rstrip(os.sep) + os.sep
        if real.startswith(target) and not self._excludes(self._name(path)):
            self._unreadable(path, "is a link to a folder that it lies in: a loop, not followed")

    def _unreadable(self, path: str, reason: str) -> None:
        self._found.unreadable.append(Unreadable(path=self._name(path), reason=reason))

    def _name(self, path: str) -> str:
        absolute = os.path.normpath(Path(self._base, path))
        inside = absolute.startswith(self._base.rstrip(os.sep) + os.sep)
        relative = absolute[len(self._base.rstrip(os.sep)) + 1 :] if inside else absolute
        printable = os.fsencode(relative or ".").decode("utf-8", "backslashreplace")
        return printable.replace(os.sep, "/")


def _is_environment(folder: str) -> bool:
    return any(Path(folder, mark).exists() for mark in _ENVIRONMENT)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _not_a_file(path: Path) -> str:
    try:
        path.stat()
    except FileNotFoundError:
        return f"is a link to {str(path.readlink())!r}, which does not exist"
    except OSError as error:
        return _reason(error)
    return "is not a regular file"


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _missing(path: Path) -> InputError:
    if path.is_symlink():
        return InputError(f"{str(path)!r} is a link that leads to no file or folder.")
    message = f"there is no file or folder {str(path)!r}."
    if not path.parent.is_dir():
        gone = next((above for above in list(path.parents)[::-1] if not above.exists()), path.parent)
        return InputError(message, hint=f"There is no folder {str(gone)!r}.")
    return InputError(message, hint=did_you_mean(path.name, _names_in(path.parent)))


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(item.name for item in folder.iterdir())
    except OSError:
        return []
