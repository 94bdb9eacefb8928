"""Globs of paths, as `exclude` and `per-file` take them.

A glob without "/" fits a file or folder of that name anywhere (`*_pb2.py`, `vendored`); one with "/" fits from
where the audit starts (`src/generated`, `tests/**/data_*.py`), or from the root of the file system where it is
absolute. `*` and `?` stop at "/", `**` does not. A glob that fits a folder fits all that lies in it.
"""

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether a file's name in reports, or a folder above it, fits one of the globs."""
    return any(_fits(name, glob) for glob in globs)


def under(folder: str, glob: str) -> str:
    """Return the glob as it is meant by a file in `folder` (an absolute path): anchored there if it holds a "/"."""
    if "/" not in glob.rstrip("/") or glob.startswith("/"):
        return glob
    literal = re.sub(r"([*?[])", r"[\1]", folder)
    return f"{literal.rstrip('/')}/{glob.removeprefix('./')}"


def _fits(name: str, glob: str) -> bool:
    return _pattern(glob).fullmatch(_absolute(name) if glob.startswith("/") else name) is not None


@cache
def _absolute(name: str) -> str:
    return os.path.normpath(Path(name).absolute()).replace(os.sep, "/")


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    body = glob.strip().removeprefix("./").rstrip("/")
    head = "" if "/" in body else "(?:.*/)?"
    return re.compile(f"{head}{_translated(body)}(?:/.*)?", re.DOTALL)


def _translated(glob: str) -> str:
    parts = re.split(r"(\*\*/|/\*\*$|\*\*|\*|\?|\[!?\]?[^\]/]*\])", glob)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    known = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in known:
        return known[part]
    if part.startswith("[") and part.endswith("]"):
        inner = part[1:-1].replace("\\", "\\\\")
        return f"[{'^' + inner[1:] if inner.startswith('!') else inner}]"
    return re.escape(part)
