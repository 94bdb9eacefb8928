"""What criteria are answered from: the findings that decide, counts over files, and sentences with places.

Findings in tests decide nothing: a test may do on purpose what training code must not. They stand in the report
and cost their points.
"""

from collections.abc import Iterable
from functools import cached_property

from ampguard.auditing.findings import FileFacts, Finding, GoodPractice, Severity
from ampguard.auditing.outcome import AuditReport
from ampguard.auditing.rules import all_rules, family_of
from ampguard.auditing.selection import chosen_rules

SHOWN = 3
"""Places that a sentence names; the report has the rest."""


class Evidence:
    """What an audit found, as criteria ask for it.

    Args:
        report: The report, not decided yet.
    """

    def __init__(self, report: AuditReport) -> None:
        self.report = report

    @cached_property
    def facts(self) -> list[FileFacts]:
        """Return the facts of the files that decide: all but tests."""
        return [file.facts for file in self.report.files if file.facts.role != "test"]

    @cached_property
    def findings(self) -> list[Finding]:
        """Return the findings that decide, in stable order."""
        tests = {file.facts.path for file in self.report.files if file.facts.role == "test"}
        return [f for f in self.report.findings if f.path not in tests]

    @cached_property
    def _asked(self) -> set[str]:
        return {rule.code for rule in chosen_rules(self.report.config)}

    def asked(self, codes: Iterable[str]) -> bool:
        """Whether this run asked one of the rules (they may be off, or not selected)."""
        return not self._asked.isdisjoint(codes)

    def of(self, codes: Iterable[str], least: Severity = Severity.LOW) -> list[Finding]:
        """Return the deciding findings of these rules from a severity on."""
        wanted = frozenset(codes)
        return [f for f in self.findings if f.code in wanted and f.severity >= least]

    def practices(self, *names: str) -> list[GoodPractice]:
        """Return the good practices of these kinds."""
        return [p for p in self.report.good_practices if p.name in names]

    def worlds(self, *kinds: str) -> list[str]:
        """Return where the files have to do with one of these kinds of outside world: "a.py: requests (line 3)"."""
        return [f"{facts.path}: {detail}" for facts in self.facts for kind, detail in facts.facts if kind in kinds]

    def total(self, count: str) -> int:
        """Return the sum of one count of `FileFacts` over the deciding files."""
        return sum(getattr(facts, count) for facts in self.facts)


def codes_of(*names: str, family: str = "") -> frozenset[str]:
    """Return the codes of the rules of these names, and of all in a family's folder."""
    return frozenset(rule.code for rule in all_rules() if rule.name in names or family_of(rule) == family)


def counted(number: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def placed(findings: Iterable[Finding | GoodPractice]) -> str:
    """Return the first few places, and how many more there are: "a.py:3, b.py:9 and 4 more"."""
    return listed([f"{f.path}:{f.line}" for f in findings])


def codes_in(findings: Iterable[Finding]) -> str:
    """Return the codes of findings, each once: "ERR001, ERR002"."""
    return ", ".join(sorted({f.code for f in findings}))


def listed(items: list[str]) -> str:
    """Return the first few items, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
