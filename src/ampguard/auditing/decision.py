"""The decision: BLOCK where a blocking criterion is triggered, WARN where a warning one is, else PASS.

The score has no part in it. What could not be read is itself a warning criterion: nobody passes unread.
"""

from collections.abc import Iterable
from dataclasses import replace

from ampguard.auditing.compliance import compliance
from ampguard.auditing.criteria import criteria
from ampguard.auditing.evidence import Evidence
from ampguard.auditing.outcome import AuditReport, Criterion
from ampguard.auditing.score import grade, score


def decided(report: AuditReport) -> AuditReport:
    """Return the report with its criteria, compliance table, decision, score and grade worked out."""
    evidence = Evidence(report)
    asked = criteria(evidence)
    points = score(report.findings)
    return replace(
        report,
        decision=decision(asked),
        score=points,
        grade=grade(points),
        criteria=asked,
        compliance=compliance(evidence, asked),
    )


def decision(criteria: Iterable[Criterion]) -> str:
    """Return what the criteria decide."""
    triggered = {criterion.level for criterion in criteria if criterion.result == "triggered"}
    if "block" in triggered:
        return "BLOCK"
    return "WARN" if "warn" in triggered else "PASS"
