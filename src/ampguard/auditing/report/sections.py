"""What the sections of the page are about: findings as issues and notes, facts by critical path, and so on."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ampguard.auditing.coverage import Coverage, coverage
from ampguard.auditing.findings import FileFacts, FileResult, Finding, GoodPractice, Severity
from ampguard.auditing.outcome import AuditReport, Criterion
from ampguard.auditing.practices import all_practices
from ampguard.auditing.reading import critical_paths as paths
from ampguard.auditing.rules import Rule, all_rules

DOUBTFUL = ("possible", "unlikely")
"""Likelihoods of potential issues."""

SHOWN = 12
"""Lines of a list; what goes beyond is counted."""

DETAILED = 150
"""Issues with their excerpt; those after them (the milder ones) have one line each."""

BROAD = ("bare-except", "broad-except", "swallowed-exception")
"""Names of the rules about handlers that catch too much."""


@dataclass(frozen=True)
class Issue:
    """One finding with its number on the page."""

    number: int
    finding: Finding


@dataclass(frozen=True)
class FileSection:
    """What the page says of one file."""

    facts: FileFacts
    issues: list[Issue]
    """Certain or likely, of low severity or more."""
    potential: list[Issue]
    """Possible or unlikely ones."""
    notes: list[Finding]
    """Findings of severity info, and issues past `DETAILED`."""
    practices: list[list[GoodPractice]]
    """By kind, the kinds in the order of their first lines."""
    tested: list[str]
    """For a test file, the error scenarios that it exercises."""


@dataclass(frozen=True)
class Group:
    """The findings of one rule."""

    rule: Rule | None
    findings: list[Finding]

    @property
    def first(self) -> Finding:
        """Return the worst finding; of equals the first."""
        return max(self.findings, key=lambda f: f.severity)

    @property
    def fixes(self) -> list[str]:
        """Return the different remedies, at most three."""
        return list(dict.fromkeys(f.fix for f in self.findings))[:3]

    @property
    def ruff(self) -> str:
        """Return the codes of ruff that ask a similar question."""
        return ", ".join(self.rule.ruff) if self.rule else ""


@dataclass(frozen=True)
class Fact:
    """One fact with its place."""

    path: str
    line: int
    text: str


class Page:
    """What the template asks for.

    Args:
        report: The report.
    """

    def __init__(self, report: AuditReport) -> None:
        self.report = report

    @cached_property
    def titles(self) -> dict[str, str]:
        """Return the title of each kind of good practice."""
        return {practice.name: practice.title for practice in all_practices()}

    @cached_property
    def total_lines(self) -> int:
        """Return how many lines the audited files have."""
        return sum(file.facts.lines for file in self.report.files)

    @cached_property
    def counted(self) -> str:
        """Return how many findings there are of each severity, in words."""
        return ", ".join(f"{n} {severity}" for severity, n in self.report.counts().items() if n) or "no findings"

    @cached_property
    def groups(self) -> list[Group]:
        """Return the findings by rule: the worst first, then the most frequent."""
        rules = {rule.code: rule for rule in all_rules()}
        by_code: dict[str, list[Finding]] = {}
        for finding in self.report.findings:
            by_code.setdefault(finding.code, []).append(finding)
        groups = [Group(rules.get(code), found) for code, found in by_code.items()]
        return sorted(groups, key=lambda g: (-g.first.severity, -len(g.findings), g.first.code))

    @cached_property
    def urgent(self) -> list[Group]:
        """Return the groups that hold anything of low severity or more."""
        return [group for group in self.groups if group.first.severity > Severity.INFO]

    @cached_property
    def told(self) -> list[Group]:
        """Return the groups for information."""
        return [group for group in self.groups if group.first.severity == Severity.INFO]

    @cached_property
    def practices(self) -> list[tuple[str, list[GoodPractice]]]:
        """Return the good practices by kind, the most frequent first, with the kind's title."""
        by_name: dict[str, list[GoodPractice]] = {}
        for practice in self.report.good_practices:
            by_name.setdefault(practice.name, []).append(practice)
        ordered = sorted(by_name.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(self.titles.get(name, name), found) for name, found in ordered]

    @cached_property
    def files(self) -> list[FileSection]:
        """Return a section for each file about which there is something to say; those with the worst issues first."""
        numbers = self._numbers()
        sections = [self._section(file, numbers) for file in self.report.files]
        worth = [s for s in sections if s.issues or s.potential or s.notes or s.practices or s.tested]
        return sorted(worth, key=lambda s: (_first_number(s), s.facts.path))

    @cached_property
    def silent(self) -> int:
        """Return how many files there is nothing to say about."""
        return len(self.report.files) - len(self.files)

    def facts(self, *names: str) -> list[Fact]:
        """Return the facts of these names over all files, by place."""
        found = []
        for file in self.report.files:
            for name, detail in file.facts.facts:
                if name in names:
                    line, _, text = detail.partition(" ")
                    found.append(Fact(file.facts.path, int(line), text))
        return found

    def found(self, *names: str) -> list[Finding]:
        """Return the findings of the rules of these names."""
        return [f for f in self.report.findings if f.name in names]

    def in_families(self, *folders: str) -> list[Finding]:
        """Return the findings of low severity or more of these families."""
        codes = {rule.code for rule in all_rules() if type(rule).__module__.split(".")[-2] in folders}
        return [f for f in self.report.findings if f.code in codes and f.severity > Severity.INFO]

    def credited(self, *names: str) -> list[GoodPractice]:
        """Return the good practices of these kinds."""
        return [p for p in self.report.good_practices if p.name in names]

    @cached_property
    def correlation(self) -> str:
        """Return what is known of correlation IDs in logs."""
        found = next((c for c in self.report.criteria if "correlation" in c.name.lower()), None)
        return f"{found.result.replace('_', ' ')}: {found.evidence}" if found else "not looked for"

    def criteria(self, level: str) -> list[Criterion]:
        """Return the criteria of one level."""
        return [c for c in self.report.criteria if c.level == level]

    def triggered(self, *levels: str) -> list[Criterion]:
        """Return the triggered criteria of these levels."""
        return [c for c in self.report.criteria if c.level in levels and c.result == "triggered"]

    def unknown(self) -> list[Criterion]:
        """Return the criteria without an answer."""
        return [c for c in self.report.criteria if c.result == "unknown"]

    @cached_property
    def coverage(self) -> tuple[Coverage, ...]:
        """Return the table of the error scenarios."""
        return coverage(self.report.files)

    @cached_property
    def broad(self) -> list[Finding]:
        """Return the findings about handlers that catch too much."""
        return self.found(*BROAD)

    @cached_property
    def broad_handlers(self) -> int:
        """Return how many handlers catch every exception, bare ones included."""
        return sum(file.facts.broad_excepts + file.facts.bare_excepts for file in self.report.files)

    @cached_property
    def impact(self) -> str:
        """Return the estimated impact in production, by the law that the page states."""
        deciding = [f for f in self.report.findings if f.path not in self._tests]
        worst = max((f.severity for f in deciding), default=Severity.INFO)
        if worst >= Severity.HIGH:
            return "HIGH"
        if any(f.critical_path and f.severity == Severity.MEDIUM for f in deciding):
            return "MEDIUM"
        return "LOW" if worst > Severity.INFO else "NONE FOUND"

    def of_risk(self, *severities: str) -> list[Finding]:
        """Return the findings of these severities outside of tests."""
        wanted = {Severity.of(name) for name in severities}
        return [f for f in self.report.findings if f.severity in wanted and f.path not in self._tests]

    @cached_property
    def _tests(self) -> set[str]:
        return {file.facts.path for file in self.report.files if file.facts.role == "test"}

    def _numbers(self) -> dict[Finding, int]:
        """Number the issues: the worst first, then by place."""
        issues = [f for f in self.report.findings if f.severity > Severity.INFO]
        issues.sort(key=lambda f: (-f.severity, f.order))
        return {finding: number for number, finding in enumerate(issues[:DETAILED], 1)}

    def _section(self, file: FileResult, numbers: dict[Finding, int]) -> FileSection:
        issues = [Issue(numbers[f], f) for f in file.findings if f in numbers]
        return FileSection(
            facts=file.facts,
            issues=sorted((i for i in issues if i.finding.likelihood not in DOUBTFUL), key=lambda i: i.number),
            potential=sorted((i for i in issues if i.finding.likelihood in DOUBTFUL), key=lambda i: i.number),
            notes=[f for f in file.findings if f not in numbers],
            practices=_by_kind(file.practices),
            tested=_tested(file, self.coverage),
        )

    # The names of the facts, for the template.
    STEP, HANDLER, PRECISION = paths.STEP, paths.HANDLER, paths.PRECISION
    TRACKER, TRACKER_HANDLED = paths.TRACKER, paths.TRACKER_HANDLED
    SAVE, LOAD = paths.SAVE, paths.LOAD
    SHOWN = SHOWN


def _by_kind(practices: Iterable[GoodPractice]) -> list[list[GoodPractice]]:
    found: dict[str, list[GoodPractice]] = {}
    for practice in practices:
        found.setdefault(practice.name, []).append(practice)
    return sorted(found.values(), key=lambda group: group[0].line)


def _tested(file: FileResult, rows: Iterable[Coverage]) -> list[str]:
    """Return the scenarios that one file's tests exercise, with the lines."""
    found = []
    for row in rows:
        lines = [test.line for test in row.tests if test.path == file.facts.path]
        if lines:
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            found.append(f"{row.title} (line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:3]))}{more})")
    return found


def _first_number(section: FileSection) -> int:
    return min((issue.number for issue in (*section.issues, *section.potential)), default=DETAILED + 1)
