"""The lock of a study folder: held by the process of the search, and by each of its workers while it lives.

A lock on an open file that workers inherit (flock): where a search is killed, its folder is free when the last of its
workers has stopped, and whoever resumes it waits for that.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from ampguard.errors import RunFolderError

FILE: Final = ".lock"
PATIENCE_S: Final = 10.0
"""Seconds in which the workers of a search that was killed come to the end of their step."""


@contextmanager
def locked(folder: Path, patience_s: float) -> Iterator[int]:
    """Hold a folder; give the file descriptor, for workers.

    Args:
        folder: It exists.
        patience_s: Seconds to wait for another holder.

    Raises:
        RunFolderError: Another process holds it.
    """
    file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = monotonic() + patience_s
    try:
        while not _take(file):
            if monotonic() > deadline:
                raise RunFolderError(
                    f"study folder {folder} is in use by another process.", hint="Wait for it, or give another --out."
                )
            sleep(0.1)
        yield file
    finally:
        os.close(file)


def _take(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
