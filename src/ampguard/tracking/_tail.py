"""The file is the queue: the rows of a growing JSONL file, in order, from where the reader stood.

One reader, in a thread of its own, while another thread or process appends. A line counts when its newline is there;
until then it is being written, or was torn and is about to be cut. Memory: one chunk, or the longest line.
"""

import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final

from ampguard.run_folder import parse_row

_log = logging.getLogger("ampguard.tracking")

CHUNK_BYTES: Final = 1 << 16
"""Read at once; a longer line is read as a whole."""


class Tail:
    """Reads one file. A file that does not exist has no rows yet.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.position = 0
        """Rows of the file up to where it stands, the one that was returned last included."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the complete rows that were not yielded yet; damaged lines are left out."""
        try:
            with self._path.open("rb", buffering=0) as file:
                yield from self._rows_of(file)
        except OSError as error:
            # Whoever writes the file tells of a disk that fails; what is there is read at the next call.
            _log.debug("%s cannot be read now: %s", self._path, error)

    def skip(self, count: int) -> None:
        """Go past the first `count` rows."""
        if count:
            for _ in self.rows():
                if self.position >= count:
                    return

    def _rows_of(self, file: FileIO) -> Iterator[dict[str, Any]]:
        if os.fstat(file.fileno()).st_size < self._offset:
            # Another file of that name: the folder was deleted and made again.
            self._offset = self.position = 0
        while lines := self._complete_lines(file):
            for line in lines:
                self._offset += len(line)
                row = parse_row(line)
                if row is not None:
                    self.position += 1
                    yield row

    def _complete_lines(self, file: FileIO) -> list[bytes]:
        """Return the next lines that are complete: those stay as they are, what follows them may still be cut."""
        size, chunk = CHUNK_BYTES, b""
        while b"\n" not in chunk:
            file.seek(self._offset)
            chunk, whole = file.read(size), size
            size *= 2
            if len(chunk) < whole:
                break
        return [line + b"\n" for line in chunk.split(b"\n")[:-1]]


def ends_within_a_line(path: Path) -> bool:
    """Return whether the last line of a file is not complete: it is being written, or a kill tore it."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
