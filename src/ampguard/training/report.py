"""The page that a run leaves behind, also one that failed. It is a courtesy: it can cost a warning, never the run."""

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ampguard.reporting import write_report
from ampguard.run_folder import read_record

log = logging.getLogger("ampguard.training")

HURRIED_BYTES: Final = 64 * 2**20
"""Size of metrics.jsonl from which a run that was asked to stop leaves no report: about a second of reading, where a
scheduler may kill what does not end soon."""


@contextmanager
def reported(path: Path, *, wanted: bool, begun: Callable[[], bool]) -> Iterator[None]:
    """Write the report of the run in `path` when the block ends, and when the run fails in it.

    Not when it had not begun: then there is nothing to tell, or the folder is another's.
    """
    try:
        yield
    except Exception:
        if wanted and begun():
            leave_report(path)
        raise
    if wanted:
        leave_report(path)


def leave_report(path: Path) -> None:
    """Write report.html into a run folder; whatever goes wrong is told by one WARNING."""
    if not (path / "run.toml").exists():
        return
    quoted = shlex.quote(str(path))
    try:
        if _in_a_hurry(path):
            log.warning("no report was written, for the run was asked to stop: ampguard report %s writes it.", quoted)
        else:
            write_report([path])
    except Exception as error:  # noqa: BLE001 - whatever it is
        # The run is over and its result is written: nothing that a page does wrong may undo that.
        log.warning("the report could not be written (%s: %s): ampguard report %s", type(error).__name__, error, quoted)


def _in_a_hurry(path: Path) -> bool:
    asked = (read_record(path) or {}).get("status") in ("interrupted", "preempted")
    rows = path / "metrics.jsonl"
    return asked and rows.exists() and rows.stat().st_size > HURRIED_BYTES
