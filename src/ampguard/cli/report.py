"""`ampguard report RUN [RUN...]`, or of a bench: a page to look at, a text, or the plain numbers. Imports no torch."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ampguard.cli.streams import print_json, stdout
from ampguard.errors import ConfigError

_SWITCH = Parameter(negative="", show_default=False)


def report(
    *runs: Annotated[Path, Parameter(show_default=False)],
    out: Path | None = None,
    format: Literal["html", "text", "json"] = "html",
    quiet: Annotated[bool, _SWITCH] = False,
    debug: Annotated[bool, _SWITCH] = False,
) -> int:
    """Write one HTML file about one run, about several side by side, or about a bench; print where it is.

    Args:
        runs: Run folders, or the folder of one bench.
        out: The file; by default report.html in the folder named, and for several runs in the current one.
        format: A page, or in its place on stdout a text, or one JSON object with the plain numbers.
        quiet: No warnings about what could not be read; the page tells them all the same.
        debug: Show ampguard's own frames in errors.
    """
    del quiet, debug
    if not runs:
        raise ConfigError("report needs at least one run folder.", hint="For example: ampguard report runs/digits-1")
    if out is not None and format != "html":
        raise ConfigError(
            f"--out is given beside --format {format}, which goes to stdout.", hint="Redirect it: > FILE."
        )
    from ampguard.reporting.bench import find_bench

    bench = find_bench(runs)
    if bench is not None:
        _answer_bench(bench, out, format)
    else:
        _answer(runs, out, format)
    return 0


def _answer(runs: tuple[Path, ...], out: Path | None, format: str) -> None:
    from ampguard.reporting import as_dict, read_runs, write_report
    from ampguard.reporting.text import print_text

    if format == "html":
        # A path is one line, however narrow the terminal: it is there to be copied.
        sys.stdout.write(f"{write_report(runs, out)}\n")
    elif format == "json":
        print_json(as_dict(read_runs(runs)))
    else:
        print_text(read_runs(runs), stdout())


def _answer_bench(bench: Path, out: Path | None, format: str) -> None:
    from ampguard.reporting.bench import as_dict, read_bench, write_bench_report
    from ampguard.reporting.bench.text import print_text

    if format == "html":
        sys.stdout.write(f"{write_bench_report(bench, out)}\n")
    elif format == "json":
        print_json(as_dict(read_bench(bench)))
    else:
        print_text(read_bench(bench), stdout())
