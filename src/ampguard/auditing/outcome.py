"""The answer of an audit: what `ampguard.audit` returns and every page is written from.

Plain values again, in a stable order: files by path, findings by place. Nothing here depends on how many
processes worked or in which order files were read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import FileResult, Finding, GoodPractice, Severity, Unreadable
from ampguard.auditing.reading.source import Source, UnreadableError, read

DECISIONS = ("PASS", "WARN", "BLOCK")
"""From good to bad."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One question that the decision asks, and its answer."""

    level: str
    """"block", "warn" or "info": what a triggered criterion makes of the decision."""
    name: str
    """The fault it asks about, as a phrase: "Critical operation error swallowed"."""
    result: str
    """"met" (looked for, not found), "triggered", "not_applicable" (the code has no such thing) or "unknown"."""
    evidence: str
    """Why, with counts and the first few places."""


@dataclass(frozen=True, kw_only=True)
class ComplianceRow:
    """One line of the compliance table."""

    criterion: str
    status: str
    """"PASS", "PARTIAL", "FAIL" or "N/A"."""
    notes: str


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """All that an audit found out.

    `report.decision` is "PASS", "WARN" or "BLOCK", by the criteria alone; `report.score` is a number to compare
    two states of one code base by.
    """

    version: str
    """Of ampguard."""
    decision: str
    score: int
    grade: str
    files: tuple[FileResult, ...]
    """One for each file that was analysed, by path."""
    unreadable: tuple[Unreadable, ...] = ()
    """Files that were not analysed, or not by every rule, by path."""
    criteria: tuple[Criterion, ...] = ()
    compliance: tuple[ComplianceRow, ...] = ()
    config: AuditConfig = field(default_factory=AuditConfig)
    texts: Mapping[str, Path | Source] = field(default_factory=dict, repr=False)
    """Where the text of each file is, by its name in reports: a path, or the text itself (stdin)."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return the findings of all files, sorted by path, line, column and code."""
        return tuple(sorted((f for file in self.files for f in file.findings), key=lambda f: f.order))

    @property
    def good_practices(self) -> tuple[GoodPractice, ...]:
        """Return the good practices of all files, sorted by path, line and name."""
        return tuple(sorted((p for file in self.files for p in file.practices), key=lambda p: p.order))

    @property
    def failed(self) -> bool:
        """Whether the decision is at or above `config.fail_on`."""
        wanted = self.config.fail_on.upper()
        return wanted in DECISIONS and DECISIONS.index(self.decision) >= DECISIONS.index(wanted)

    def counts(self) -> dict[Severity, int]:
        """Return how many findings there are of each severity, the worst first."""
        found = [f.severity for f in self.findings]
        return {severity: found.count(severity) for severity in sorted(Severity, reverse=True)}

    def lines(self, path: str) -> list[str]:
        """Return the lines of a file as it is now, by its name in reports; [] where it cannot be read any more."""
        text = self.texts.get(path)
        if text is None:
            return []
        try:
            return (text if isinstance(text, Source) else read(text, path)).lines
        except UnreadableError:
            return []

    def as_dict(self) -> dict[str, Any]:
        """Return the report as `--format json` prints it."""
        from ampguard.auditing.report.json import as_dict

        return as_dict(self)

    def __str__(self) -> str:
        told = ", ".join(f"{n} {severity}" for severity, n in self.counts().items() if n) or "no findings"
        files = f"{len(self.files)} file{'s' if len(self.files) != 1 else ''}"
        return f"{self.decision}: score {self.score} ({self.grade}), {told} in {files}"
