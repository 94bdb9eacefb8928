"""The report on a terminal: one line a finding, file by file; then the decision, why, and one next command.

A finding's line starts with `path:line:column`, which editors and terminals take as a link, and is never wrapped.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.outcome import AuditReport

STYLES = {
    Severity.CRITICAL: "bold white on red",
    Severity.HIGH: "bold red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}
DECISION_STYLES = {"PASS": "bold green", "WARN": "bold yellow", "BLOCK": "bold red"}

EXCERPT = 12
"""Lines of source shown of one finding."""

UNREADABLE = 20
"""Unreadable files listed; the JSON has all."""


def print_text(
    report: AuditReport,
    console: Console,
    *,
    paths: Sequence[str] = (".",),
    source: bool = False,
    statistics: bool = False,
    closing: bool = True,
) -> None:
    """Print the report.

    Args:
        report: The report.
        console: Where to.
        paths: The paths that were given, for the next command.
        source: Whether each finding's lines are shown below it, with what to write instead.
        statistics: Print how many findings each rule has, in place of the findings.
        closing: Whether the decision, its reasons and the next command follow.
    """
    if statistics:
        if report.findings:
            console.print(statistics_table(report))
    else:
        for finding in report.findings:
            console.print(line_of(finding), soft_wrap=True)
            if source:
                console.print(excerpt(report, finding))
    for line in last_lines(report, paths) if closing else ():
        console.print(line, soft_wrap=True)


def line_of(finding: Finding) -> Text:
    """Return a finding's one line."""
    return Text.assemble(
        (finding.path, "bold"),
        f":{finding.line}:{finding.column} ",
        (str(finding.severity), STYLES[finding.severity]),
        " ",
        (finding.code, "bold"),
        f" {' '.join(finding.message.split())}",
        (f" [{finding.name}]", "dim"),
    )


def excerpt(report: AuditReport, finding: Finding) -> RenderableType:
    """Return the finding's lines as they stand, and what to do about them."""
    lines = report.lines(finding.path)
    last = min(finding.end_line, finding.line + EXCERPT - 1, len(lines))
    told = Table.grid(padding=(0, 1))
    for label, text in (("impact:", finding.impact), ("fix:", finding.fix)):
        told.add_row("   ", Text(label, style="dim"), Text(text, style="dim"))
    if not finding.line <= last:
        return Group(told, Text())
    code = "\n".join(lines[finding.line - 1 : last])
    look: dict[str, Any] = {"background_color": "default", "theme": "ansi_dark", "word_wrap": True}
    source = Syntax(code, "python", line_numbers=True, start_line=finding.line, **look)
    return Group(source, told, Text())


def statistics_table(report: AuditReport) -> Table:
    """Return how many findings each rule has, in how many files, the worst rules first."""
    grid = Table(box=None, padding=(0, 2, 0, 0))
    grid.add_column("findings", justify="right")
    grid.add_column("files", justify="right")
    for heading in ("worst", "code", "name"):
        grid.add_column(heading, no_wrap=True)
    by_code = {code: list(group) for code, group in groupby(sorted(report.findings, key=_code), key=_code)}
    for code, found in sorted(by_code.items(), key=lambda item: (-_worst(item[1]), -len(item[1]), item[0])):
        worst = _worst(found)
        files = len({f.path for f in found})
        grid.add_row(str(len(found)), str(files), Text(str(worst), style=STYLES[worst]), code, found[0].name)
    return grid


def last_lines(report: AuditReport, paths: Sequence[str]) -> Iterator[Text]:
    """Yield the lines below the findings: what could not be read, the decision, why, and the next command."""
    for item in report.unreadable[:UNREADABLE]:
        yield Text.assemble((item.path, "bold"), ": ", ("unreadable", "bold yellow"), f" {item.reason}")
    if len(report.unreadable) > UNREADABLE:
        yield Text(f"and {len(report.unreadable) - UNREADABLE} more that could not be read")
    if report.findings or report.unreadable:
        yield Text()
    yield Text.assemble(
        (report.decision, DECISION_STYLES[report.decision]),
        (f"  score {report.score} ({report.grade})", "bold"),
        f"  {counts(report)}",
    )
    for criterion in report.criteria:
        if criterion.result == "triggered" and criterion.level == report.decision.lower():
            because = (f"  {criterion.level}s: ", DECISION_STYLES[report.decision])
            yield Text.assemble(because, criterion.name, (f": {criterion.evidence}", "dim"))
    yield Text.assemble(("next: ", "bold"), next_command(report, paths))


def counts(report: AuditReport) -> str:
    """Return how many findings, practices and files there are, in words."""
    told = ", ".join(f"{n} {severity}" for severity, n in report.counts().items() if n) or "no findings"
    good = len(report.good_practices)
    practices = f", {good} good practice{'s' if good != 1 else ''}" if good else ""
    files = len(report.files)
    unread = f", {len(report.unreadable)} unreadable" if report.unreadable else ""
    return f"{told}{practices} in {files} file{'s' if files != 1 else ''}{unread}"


def next_command(report: AuditReport, paths: Sequence[str]) -> str:
    """Return the one command that helps most now.

    The page of the rule behind the worst findings (of those, the most frequent); where all is low, the full report.
    """
    worst = [f for f in report.findings if f.severity == _worst(report.findings)]
    if worst and worst[0].severity >= Severity.MEDIUM:
        (code, _), *_ = sorted(Counter(f.code for f in worst).items(), key=lambda item: (-item[1], item[0]))
        return f"ampguard audit --explain {code}"
    if "-" in paths:
        return "ampguard audit --explain list"
    return f"ampguard audit {shlex.join(paths)} --format markdown --output audit.md"


def _worst(findings: Sequence[Finding]) -> Severity:
    return max((f.severity for f in findings), default=Severity.INFO)


def _code(finding: Finding) -> str:
    return finding.code
