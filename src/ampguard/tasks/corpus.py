"""Real text that every machine has: the sources of the running interpreter's own standard library.

About 8 MB in 400 files. They differ between Python versions, so the SHA-256 of what was read goes into the record.
Every 20th file, in the order of their paths, is for validation: whole files, so that no line of them was trained on,
and spread over the whole library.

Left out: tests, whatever is installed beside the library (site-packages), and files that are tables more than text.
"""

import hashlib
import os
import platform
import sysconfig
from collections import Counter
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from ampguard.errors import TaskError

_LEFT_OUT = frozenset(
    {
        "site-packages", "dist-packages",  # not the library
        "test", "tests", "idle_test", "__phello__",  # tests
        "encodings", "pydoc_data", "turtledemo",  # tables of characters, strings of help, drawings
        "lib2to3", "distutils", "idlelib", "tkinter", "ensurepip",  # absent from newer or smaller installations
    }
)  # fmt: skip

_MACHINE = ("_sysconfigdata", "config-")
"""Prefixes of what holds the machine's own paths and build options."""

_VAL_EVERY = 20
"""Every 20th file: 5 % for validation."""

_ENOUGH_BYTES = 1_000_000
"""Below this an installation has lost its sources (a minimal image, a zipped library)."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Bytes to train on and bytes to validate on."""

    train: bytes
    val: bytes
    info: dict[str, Any]
    """Facts for the record."""


def stdlib_corpus() -> Corpus:
    """Read the standard library's sources.

    Raises:
        TaskError: This interpreter has no sources beside it.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = [file.read_bytes() for file in _sources(root)]
    size = sum(map(len, documents))
    if size < _ENOUGH_BYTES:
        raise TaskError(
            f"the Task 'text' reads the standard library's .py files, but '{root}' has only {size} bytes of them.",
            hint="Use a Python with its sources (not a zipped or stripped one), or a Task of your own.",
        )
    val = b"".join(documents[_VAL_EVERY - 1 :: _VAL_EVERY])
    train = b"".join(text for place, text in enumerate(documents, 1) if place % _VAL_EVERY)
    info = {
        "corpus": f"sources of the Python {platform.python_version()} standard library",
        "corpus_sha256": hashlib.sha256(b"".join(documents)).hexdigest(),
        "corpus_bytes": size,
        "corpus_files": len(documents),
        "train_bytes": len(train),
        "val_bytes": len(val),
    }
    return Corpus(train=train, val=val, info=info)


def unigram_entropy(data: bytes) -> float:
    """Return the entropy of single bytes, in nats a byte: the loss of the best model that sees no context.

    Source: Shannon 1948, -sum p log p over the byte frequencies of `data` itself.
    """
    return -sum(n / len(data) * log(n / len(data)) for n in Counter(data).values())


def _sources(root: Path) -> list[Path]:
    """Return the library's files, sorted by their path from its root, the same on every system."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        # Cut in place, so that the walk never enters site-packages.
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith(_MACHINE)]
        files += [Path(folder, name) for name in names if name.endswith(".py") and not name.startswith(_MACHINE)]
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())
