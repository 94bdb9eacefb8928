"""Which torch a project asks for, from the files that say so beside its code.

Read: pyproject.toml, setup.cfg, setup.py, requirements (a file or a folder), environment.yml, as text, in the folder
of a file and those above it up to the root of the repository. The first folder with a word about torch counts.
"""

import re
from pathlib import Path
from typing import Any

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module

Version = tuple[int, int]
Range = tuple[Version | None, Version | None]

_FILES = ("pyproject.toml", "setup.cfg", "setup.py", "environment.yml", "environment.yaml")
_LISTS = ("*requirements*.txt", "requirements/*.txt", "requirements/*/*.txt")
_LEVELS = 12
_TORCH = regex(
    r"""(?:^|["'\s\[,])torch(?:\s*\[[^\]]*\])?\s*((?:(?:[<>=!~]=?|===)\s*v?[\d.]+[\w.*+]*\s*,?\s*)+)""", re.M
)
_BOUND = regex(r"(===|[<>=!~]=?)\s*v?(\d+)(?:\.(\d+))?(?:\.(\d+))?")
_POETRY = regex(r"""^torch\s*=\s*(?:\{[^}\n]*version\s*=\s*)?["']([~^<>=!\d.,\s]+)["']""", re.M)
_LARGEST = 200_000
"""Bytes of a requirements file that is read. Chosen: longer ones are lists of everything, locked by a tool."""


def _folder(folder: Path) -> Range | None:
    lists = [path for pattern in _LISTS for path in sorted(folder.glob(pattern))]
    names = [*(folder / name for name in _FILES), *lists]
    for path in names:
        bounds = _file(path)
        if bounds is not None:
            return bounds
    return None


def torch_range(module: Module) -> Range:
    """Return the lowest torch that the file's project allows and the first that it does not; None where not said."""
    path = module.project.files.get(module.path)
    return _above(path.resolve().parent, module.project.memo) if isinstance(path, Path) else (None, None)


def _above(start: Path, memo: dict[Any, Any]) -> Range:
    for folder in (start, *start.parents[:_LEVELS]):
        question = ("torch range", folder)
        if question not in memo:
            memo[question] = _folder(folder)
        found: Range | None = memo[question]
        if found is not None:
            return found
        if (folder / ".git").exists():
            break
    return None, None


def _file(path: Path) -> Range | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:_LARGEST] if path.is_file() else ""
    except OSError:
        return None  # a file that cannot be read says nothing
    specifiers = [m[1] for m in _TORCH.finditer(text)] + [_caret(m[1]) for m in _POETRY.finditer(text)]
    return _widest([_bounds(specifier) for specifier in specifiers]) if specifiers else None


def _caret(specifier: str) -> str:
    """Return Poetry's way to write a specifier in pip's: `^1.9` stops before 2, `~1.9` before 1.10."""
    version = specifier.strip()
    if version[:1] in ("^", "~") and version[1:2] != "=":
        major, _, rest = version[1:].partition(".")
        minor = rest.partition(".")[0]
        if not major.isdigit():
            return f">={version[1:]}"
        stop = f"{major}.{int(minor) + 1}" if version[0] == "~" and minor.isdigit() else str(int(major) + 1)
        return f">={version[1:]},<{stop}"
    return version if version[:1] in ("<", ">", "=", "!", "~") else f"=={version}"


def _bounds(specifier: str) -> Range:
    floors, ceilings = [], []
    for operator, major, minor, patch in _BOUND.findall(specifier):
        version = (int(major), int(minor or 0))
        if operator in (">=", ">", "==", "===", "~="):
            floors.append(version)
        if operator in ("==", "===", "<=") or (operator == "~=" and patch):
            ceilings.append((version[0], version[1] + 1) if minor else (version[0] + 1, 0))
        if operator == "~=" and not patch:
            ceilings.append((version[0] + 1, 0))
        if operator == "<":
            ceilings.append((version[0], version[1] + 1) if patch.strip("0") else version)
    return max(floors, default=None), min(ceilings, default=None)


def _widest(ranges: list[Range]) -> Range:
    """Return what one of several requirements allows: extras and optional groups may ask for different ones."""
    floors, ceilings = [floor for floor, _ in ranges], [ceiling for _, ceiling in ranges]
    known = [floor for floor in floors if floor is not None]
    capped = [ceiling for ceiling in ceilings if ceiling is not None]
    return (
        min(known) if len(known) == len(ranges) else None,
        max(capped) if len(capped) == len(ranges) else None,
    )
