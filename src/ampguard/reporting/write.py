"""The page as a file: written as a whole or not at all, and never over something that is no report of ours."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ampguard.errors import InputError
from ampguard.reporting.page import render_page
from ampguard.reporting.run import Run, read_runs

NAME: Final = "report.html"
_SIGN: Final = b'<meta name="generator" content="ampguard'
_HEAD_BYTES: Final = 4096
"""Within so many bytes from the start stands the sign of a report of ours."""


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Read runs, write their page, and return where it is.

    Args:
        paths: Run folders.
        out: The file; by default report.html in the run's folder, for several runs in the current one.

    Raises:
        RunFolderError: One of `paths` is no run folder that this version reads.
        InputError: The file cannot be written, or is something else than a report.
    """
    runs = read_runs(paths)
    target = out or default_path(runs)
    put_page(target, render_page(runs))
    return target


def put_page(target: Path, text: str) -> None:
    """Write a page as a whole or not at all.

    Raises:
        InputError: The file cannot be written, or is something else than a report.
    """
    _refuse_another_file(target)
    _replace(target, text)


def default_path(runs: Sequence[Run]) -> Path:
    """Return where the report of runs goes if nobody says."""
    return runs[0].path / NAME if len(runs) == 1 else Path(NAME)


def _refuse_another_file(target: Path) -> None:
    try:
        with target.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(target, error) from error
    if head and _SIGN not in head:
        raise InputError(
            f"{target} exists and is no report of ampguard; it is left as it is.",
            hint="Give another --out, or move it away.",
        )


def _replace(target: Path, text: str) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # Surrogates (a file name that is no UTF-8) are written as question marks.
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> InputError:
    reason = error.strerror or type(error).__name__
    return InputError(f"the report cannot be written to {target}: {reason}.", hint="Give another --out.")
