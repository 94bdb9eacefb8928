"""Rows in a file: one JSON object a line, read back and cut with care.

A row counts when its line is complete, newline included, and holds a JSON object. A process that was killed leaves at
most one torn last line; a machine that lost power may leave more. Both are left out, and said so.

Files are rewritten as checkpoints are: a temporary file in the same folder, fsync, rename, fsync of the folder.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ampguard.run_folder import parse_row

_log = logging.getLogger("ampguard.tracking")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of `path` in order; lines that are torn or damaged are left out with one WARNING.

    Raises:
        OSError: The file cannot be read.
    """
    return [row for _, row in _complete_rows(path)]


def keep_rows(path: Path, *, last_step: int) -> None:
    """Drop the rows of `path` whose "step" is past `last_step`, and lines that are torn or damaged.

    The file is replaced as a whole, or not touched. A file that does not exist is left so.

    Raises:
        OSError: The file cannot be read or rewritten; it is as it was.
    """
    if not path.exists():
        return
    kept = [line for line, row in _complete_rows(path) if step_of(row) <= last_step]
    if sum(map(len, kept)) != path.stat().st_size:
        _replace(path, kept)


def cut_torn_line(path: Path) -> None:
    """Cut a last line without its newline off `path`, in place, so that the next row starts on a line of its own."""
    with path.open("r+b") as file:
        complete = sum(len(line) for line in file if line.endswith(b"\n"))
        if complete != file.tell():
            file.truncate(complete)


def _complete_rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield (line, row) for each complete row; tell at the end which lines were left out."""
    bad = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            row = parse_row(line)
            if row is None:
                bad.append(number)
            else:
                yield line, row
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        _log.warning("%s: %d torn or damaged line(s) left out: line %s.", path, len(bad), shown)


def step_of(row: dict[str, Any]) -> int:
    """Return the row's step; 0, which is never dropped, for a row that has none."""
    step = row.get("step")
    return step if isinstance(step, int) else 0


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    """Put `lines` in the place of `path`, durably, as a whole or not at all."""
    temporary = path.with_name(f".writing-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable: a rename is only safe once its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
