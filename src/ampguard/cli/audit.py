"""`ampguard audit [PATH...]`: what is wrong in training code, and the decision. Imports no torch, executes nothing."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from ampguard.cli.streams import print_json, stderr, stdout
from ampguard.errors import ConfigError, InputError, did_you_mean

if TYPE_CHECKING:
    from ampguard.auditing.analyst import Tell
    from ampguard.auditing.outcome import AuditReport

_SWITCH = Parameter(negative="", show_default=False)
_LIST = Parameter(negative_iterable=(), show_default=False)
_FORMATS = {".json": "json", ".md": "markdown", ".markdown": "markdown"}
_STDIN = "-"

PAGE_WIDTH = 120
"""Columns of text that goes to a file."""


def audit(
    *paths: Annotated[str, Parameter(allow_leading_hyphen=True)],
    format: Literal["text", "json", "markdown"] | None = None,
    output: Path | None = None,
    select: Annotated[tuple[str, ...], _LIST] = (),
    ignore: Annotated[tuple[str, ...], _LIST] = (),
    exclude: Annotated[tuple[str, ...], _LIST] = (),
    per_file: Annotated[tuple[str, ...], _LIST] = (),
    severity: Annotated[tuple[str, ...], _LIST] = (),
    critical_operations: Annotated[tuple[str, ...], _LIST] = (),
    fail_on: Literal["warn", "block", "never"] | None = None,
    workers: Annotated[int | None, Parameter(name=("--workers", "-j"))] = None,
    explain: str | None = None,
    show_source: Annotated[bool, Parameter(name=("--show-source", "-v"), negative="", show_default=False)] = False,
    statistics: Annotated[bool, _SWITCH] = False,
    stdin_filename: str | None = None,
    no_config: Annotated[bool, _SWITCH] = False,
    quiet: Annotated[bool, _SWITCH] = False,
    debug: Annotated[bool, _SWITCH] = False,
) -> int:
    """Find what is wrong in training code: AMP mistakes, swallowed errors, fragile logging; and decide.

    Exit code 0: the decision is below --fail-on. 1: it is not. 2: wrong usage, or nothing could be read.

    Args:
        paths: Files and folders; by default the current folder. "-" reads from stdin.
        format: What is printed: lines for people, one JSON object, or a report in Markdown.
        output: File to write to, in place of stdout; .json and .md decide the format where --format does not.
        select: Codes, names or prefixes of rules to ask, in place of all: AMP, ERR001. May be repeated.
        ignore: Codes, names or prefixes of rules to leave out. May be repeated.
        exclude: Globs of files and folders to leave out. May be repeated.
        per_file: GLOB=CODE,CODE leaves rules out of the files of a glob. May be repeated.
        severity: CODE=SEVERITY gives the findings of a rule or prefix another severity. May be repeated.
        critical_operations: Names of functions of your own that must not fail silently. May be repeated.
        fail_on: The decision from which the exit code is 1; by default warn.
        workers: Processes; by default one a core.
        explain: Print the page of a rule, by code or name; "list" lists them all.
        show_source: Show each finding's lines, its impact and what to do.
        statistics: Print how many findings each rule has, in place of the findings.
        stdin_filename: What the text from stdin is called in the report.
        no_config: Leave pyproject.toml alone.
        quiet: No progress and no warnings; of the text, the findings alone.
        debug: Show ampguard's own frames in errors.
    """
    del debug
    where = _paths(paths)
    chosen = format or (_FORMATS.get(output.suffix.lower(), "text") if output else "text")
    if explain is not None:
        return _explain(explain, as_json=chosen == "json")
    options = {
        "select": select,
        "ignore": ignore,
        "exclude": exclude,
        "per_file": _pairs("per-file", per_file),
        "severity": {key: value for key, (value,) in _pairs("severity", severity).items()},
        "critical_operations": critical_operations,
        "fail_on": fail_on,
        "workers": workers,
        "stdin_filename": stdin_filename,
    }
    given = {name: value for name, value in options.items() if value not in (None, (), {})}
    report = _run(where, given, file=not no_config, quiet=quiet)
    _answer(report, chosen, output, paths=where, source=show_source, statistics=statistics, quiet=quiet)
    if not report.files and report.unreadable:
        return 2
    return int(report.failed)


def _run(paths: list[str], given: dict[str, Any], *, file: bool, quiet: bool) -> "AuditReport":
    from ampguard.auditing.options import load_config
    from ampguard.auditing.run import run_audit

    config = load_config(paths, given, file=file)
    stdin = sys.stdin.buffer.read() if _STDIN in paths else None
    with _progress(quiet) as tell:
        return run_audit(paths, config, stdin=stdin, tell=tell)


def _answer(
    report: "AuditReport",
    format: str,
    output: Path | None,
    *,
    paths: Sequence[str],
    source: bool,
    statistics: bool,
    quiet: bool,
) -> None:
    if format == "json" and output is None:
        print_json(report.as_dict())
        return
    if format == "text" and output is None:
        _print_text(report, stdout(), paths=paths, source=source, statistics=statistics, quiet=quiet)
        return
    text = _written(report, format, paths=paths, source=source, statistics=statistics, quiet=quiet)
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {output}: {error.strerror}.") from error
    if not quiet:
        stderr().print(f"{report}; written to {output}", markup=False)


def _written(report: "AuditReport", format: str, **how: Any) -> str:
    """Return the report as text of one format."""
    if format == "json":
        import json

        return json.dumps(report.as_dict(), indent=2) + "\n"
    if format == "markdown":
        from ampguard.auditing.report.markdown import render_markdown

        return render_markdown(report)
    page = StringIO()
    _print_text(report, Console(file=page, width=PAGE_WIDTH, highlight=False), **how)
    return page.getvalue()


def _print_text(
    report: "AuditReport", console: Console, *, paths: Sequence[str], source: bool, statistics: bool, quiet: bool
) -> None:
    from ampguard.auditing.report.text import print_text

    print_text(report, console, paths=paths, source=source, statistics=statistics, closing=not quiet)


def _explain(given: str, *, as_json: bool) -> int:
    from ampguard.auditing.report import explain

    rule = explain.explained(given)
    if as_json:
        print_json(explain.as_dict(rule))
    elif rule is None:
        explain.print_list(stdout())
    else:
        explain.print_page(rule, stdout())
    return 0


def _paths(given: Sequence[str]) -> list[str]:
    """Return the paths, the current folder where none is given; a mistyped option among them is an error.

    The parser takes "-" for a path only where it takes every word with a hyphen for one.
    """
    known = [f"--{name.replace('_', '-')}" for name in inspect.signature(audit).parameters if name != "paths"]
    for path in given:
        if path.startswith("-") and path != _STDIN:
            hint = did_you_mean(path.partition("=")[0], known) or "ampguard audit --help"
            raise ConfigError(f"there is no option {path!r}.", hint=hint)
    return list(given) or ["."]


def _pairs(flag: str, given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return KEY=VALUE,VALUE flags as a table; a key given again adds to its values."""
    table: dict[str, tuple[str, ...]] = {}
    for item in given:
        key, equals, values = item.rpartition("=")
        listed = tuple(value.strip() for value in values.split(",") if value.strip())
        if not (equals and key.strip() and listed):
            raise ConfigError(f"--{flag} is {item!r}; it is written as KEY=VALUE.")
        if flag == "severity" and len(listed) > 1:
            raise ConfigError(f"--{flag} is {item!r}; a rule has one severity. Repeat the flag for another rule.")
        table[key.strip()] = listed if flag == "severity" else (*table.get(key.strip(), ()), *listed)
    return table


@contextmanager
def _progress(quiet: bool) -> "Iterator[Tell | None]":
    """Give what shows how far the work is: a bar on a terminal, which goes when it is done; nothing elsewhere."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task("", total=None)
        yield lambda done, of: bar.update(line, completed=done, total=of)
