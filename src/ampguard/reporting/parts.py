"""A large file in parts, each read by a process of its own.

Processes are forked, and only where that is safe: in a process with one thread and without torch, as the command line's
is. A run that writes its own report reads in its own process.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

PART_BYTES: Final = 64 * 2**20
"""Bytes that a process is worth: about half a second of reading."""

MOST: Final = 8
"""Processes at most: more would wait for the disk."""


def processes_for(path: Path) -> int:
    """Return how many processes read a file."""
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    if not alone or sys.platform != "linux":
        return 1
    return max(1, min(MOST, len(os.sched_getaffinity(0)), path.stat().st_size // PART_BYTES))


def cut(path: Path, count: int) -> list[tuple[int, int]]:
    """Return `count` or fewer ranges of bytes that together are the file, cut behind newlines."""
    size = path.stat().st_size
    starts = [0]
    with path.open("rb") as file:
        for part in range(1, count):
            file.seek(max(starts[-1], size * part // count))
            file.readline()
            starts.append(file.tell())
    stops = [*starts[1:], size]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if stop > start] or [(0, size)]


def over_processes(work: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
    """Return work(*task) of each task, in order: each in a process of its own, a single one here.

    Where a process is killed (out of memory, say) all is done here.
    """
    if len(tasks) == 1:
        return [work(*tasks[0])]
    try:
        with ProcessPoolExecutor(len(tasks), multiprocessing.get_context("fork"), _leave_interrupts) as pool:
            return list(pool.map(work, *zip(*tasks, strict=True)))
    except BrokenProcessPool:
        return [work(*task) for task in tasks]


def _leave_interrupts() -> None:
    # Ctrl-C is for the parent to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
