"""Writes that survive a power cut: fsync before rename, and fsync of the folder after it.

A rename without an fsync of the data before it may, after a power cut, leave the new name on an empty file; without
an fsync of the folder the name itself may be lost.

Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014; rename(2), fsync(2).
"""

import os
from pathlib import Path

WRITING = ".writing-"
"""Prefix of every temporary name here: whatever carries it was left by a process that is gone."""


def sync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a short text file durably, as a whole or not at all."""
    temporary = path.with_name(f"{WRITING}{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
