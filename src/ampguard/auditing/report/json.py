"""The report as one JSON object, schema 1: what scripts and CI read. Keys are only ever added."""

from dataclasses import asdict
from typing import Any

from ampguard.auditing.findings import Finding
from ampguard.auditing.outcome import AuditReport
from ampguard.records import SCHEMA


def as_dict(report: AuditReport) -> dict[str, Any]:
    """Return the report as plain values, in a stable order."""
    return {
        "schema": SCHEMA,
        "version": report.version,
        "decision": report.decision,
        "score": report.score,
        "grade": report.grade,
        "files": len(report.files),
        "unreadable": [asdict(item) for item in report.unreadable],
        "findings": [_finding(finding) for finding in report.findings],
        "good_practices": [{"name": p.name, "path": p.path, "line": p.line} for p in report.good_practices],
        "criteria": [asdict(criterion) for criterion in report.criteria],
        "compliance": [asdict(row) for row in report.compliance],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": str(finding.severity),
        "likelihood": finding.likelihood,
        "path": finding.path,
        "line": finding.line,
        "column": finding.column,
        "end_line": finding.end_line,
        "message": finding.message,
        "impact": finding.impact,
        "risk": finding.risk,
        "fix": finding.fix,
        "fixable": finding.fixable,
    }
