"""The page of a bench as a file."""

from pathlib import Path

from ampguard.reporting.bench.page import render_page
from ampguard.reporting.bench.read import read_bench
from ampguard.reporting.write import NAME, put_page


def write_bench_report(path: Path, out: Path | None = None) -> Path:
    """Read a bench's folder, write its page, and return where it is.

    Args:
        path: The folder, or the bench.json in it.
        out: The file; by default report.html in that folder.

    Raises:
        RunFolderError: bench.json cannot be read.
        InputError: The file cannot be written, or is something else than a report.
    """
    bench = read_bench(path)
    target = out or bench.path / NAME
    put_page(target, render_page(bench))
    return target
