"""The page that a bench leaves in its folder. It is a courtesy: it can cost a warning, never the bench."""

import logging
from pathlib import Path

from ampguard.reporting.bench import write_bench_report

log = logging.getLogger("ampguard.benchmarking")


def leave_page(path: Path) -> None:
    """Write report.html beside bench.json; whatever goes wrong is told by one WARNING."""
    try:
        write_bench_report(path)
    except Exception as error:  # noqa: BLE001 - whatever it is
        # The bench is over and its result is written: nothing that a page does wrong may undo that.
        log.warning("the page could not be written (%s: %s): ampguard report %s", type(error).__name__, error, path)
