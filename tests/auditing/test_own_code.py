"""ampguard passes its own audit."""

from pathlib import Path

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.run import audit

ROOT = Path(__file__).parents[2]


def test_our_own_package_passes_with_100():
    report = audit(ROOT / "src", config=AuditConfig())
    told = [f"{f.path}:{f.line} {f.code} {f.message}" for f in report.findings if f.severity]
    assert (report.decision, report.score, told, report.unreadable) == ("PASS", 100, [], ())
