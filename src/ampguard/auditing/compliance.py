"""The compliance table: seven lines that a reviewer signs, each from the criteria and what was credited."""

from collections.abc import Iterable

from ampguard.auditing.evidence import Evidence, codes_in, codes_of, counted, listed, placed
from ampguard.auditing.findings import GoodPractice
from ampguard.auditing.outcome import ComplianceRow, Criterion

_TRACKERS = ("tracker-can-stop-training", "tracker-init-unguarded", "tracker-run-none")
_STATUS = {"met": "PASS", "triggered": "PARTIAL", "not_applicable": "N/A", "unknown": "N/A"}


def compliance(evidence: Evidence, criteria: Iterable[Criterion]) -> tuple[ComplianceRow, ...]:
    """Return the table's lines.

    Args:
        evidence: What was found.
        criteria: The answered criteria.
    """
    answers = {criterion.name: criterion for criterion in criteria}
    return (
        _critical(evidence, answers),
        _outside(evidence, answers),
        _row("No stack traces to users", answers["Stack traces exposed to users"], worst="FAIL"),
        _row("Retry logic for transient failures", answers["No retry or timeout for transient failures"]),
        _degradation(evidence),
        _row("Error context in logs", answers["Missing error context in logs"]),
        _propagation(answers),
    )


def _row(name: str, criterion: Criterion, *, worst: str = "PARTIAL") -> ComplianceRow:
    status = worst if criterion.result == "triggered" else _STATUS[criterion.result]
    return ComplianceRow(criterion=name, status=status, notes=criterion.evidence)


def _critical(evidence: Evidence, answers: dict[str, Criterion]) -> ComplianceRow:
    name, blocking = "No swallowed critical errors", answers["Critical operation error swallowed"]
    milder = evidence.of(codes_of("critical-operation-swallowed"))
    if blocking.result == "met" and milder:
        notes = f"{counted(len(milder), 'failure')} told and then passed over: {placed(milder)}"
        return ComplianceRow(criterion=name, status="PARTIAL", notes=notes)
    return _row(name, blocking, worst="FAIL")


def _outside(evidence: Evidence, answers: dict[str, Criterion]) -> ComplianceRow:
    """Judge what talks to data bases, the network and trackers."""
    name, worlds = "All DB/API errors logged", evidence.worlds("database", "network", "tracker")
    if not worlds:
        notes = "no data base, network or tracker package is imported"
        return ComplianceRow(criterion=name, status="N/A", notes=notes)
    if answers["Database errors not logged"].result == "triggered":
        return _row(name, answers["Database errors not logged"], worst="FAIL")
    raw = evidence.of(codes_of("missing-timeout", "missing-retry", *_TRACKERS))
    isolated = evidence.practices("tracker-isolation")
    if raw:
        return ComplianceRow(criterion=name, status="PARTIAL", notes=f"{codes_in(raw)}: {placed(raw)}")
    notes = f"handled and logged: {placed(isolated)}" if isolated else f"no fault found in {listed(worlds)}"
    return ComplianceRow(criterion=name, status="PASS", notes=notes)


def _degradation(evidence: Evidence) -> ComplianceRow:
    """Judge whether what may be missing (a GPU, a tracker, an optional value) is done without."""
    name = "Graceful degradation"
    credited = [p for p in evidence.report.good_practices if p.name in _DEGRADES]
    faults = evidence.of(codes_of("cuda-assumed", "tracker-init-unguarded", family="optional"))
    if faults:
        return ComplianceRow(criterion=name, status="PARTIAL", notes=f"{codes_in(faults)}: {placed(faults)}")
    if credited:
        return ComplianceRow(criterion=name, status="PASS", notes=_credits(credited))
    if not evidence.worlds("training step", "tracker"):
        return ComplianceRow(criterion=name, status="N/A", notes="no training step and no tracker found")
    return ComplianceRow(
        criterion=name, status="PASS", notes="nothing found that would fail without a GPU or a tracker"
    )


_DEGRADES = (
    *("guarded-cuda-fallback", "cuda-check-with-error-result", "structured-error-result"),
    *("tracker-isolation", "scaler-none-check", "optional-import-told"),
)
"""Good practices by which code does without what may be missing."""


def _propagation(answers: dict[str, Criterion]) -> ComplianceRow:
    name = "Consistent error propagation"
    blocking = answers["Critical operation error swallowed"]
    if blocking.result == "triggered":
        return _row(name, blocking, worst="FAIL")
    return _row(name, answers["Wrong error propagation"])


def _credits(practices: list[GoodPractice]) -> str:
    kinds = sorted({p.name for p in practices})
    return "; ".join(f"{kind}: {placed([p for p in practices if p.name == kind])}" for kind in kinds)
