"""The page of a search as a file."""

from pathlib import Path

from ampguard.reporting.study.page import render_page
from ampguard.reporting.study.read import read_study
from ampguard.reporting.write import NAME, put_page


def write_study_report(folder: Path, out: Path | None = None) -> Path:
    """Read the study.json of a folder, write its page, and return where it is.

    Args:
        folder: The study's.
        out: The file; by default report.html in the folder.

    Raises:
        RunFolderError: There is no study.json that this version reads.
        InputError: The file cannot be written, or is something else than a report.
    """
    target = out or folder / NAME
    put_page(target, render_page(read_study(folder)))
    return target
