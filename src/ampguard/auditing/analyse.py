"""All rules and practices over one file, with what suppresses findings taken into account."""

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.findings import FileFacts, FileResult, Finding, GoodPractice, Severity
from ampguard.auditing.practices import all_practices
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules import Rule, all_rules


def chosen_rules(config: AuditConfig) -> tuple[Rule, ...]:
    """Return the rules that the options ask for: `select` (or all that are not in preview) without `ignore`."""
    return tuple(rule for rule in all_rules() if _selected(rule, config) and not _starts(rule.code, config.ignore))


def analyse(module: Module, rules: tuple[Rule, ...]) -> FileResult:
    """Return what the rules and practices say of one file."""
    findings = [f for rule in rules if _concerns(rule.words, module) for f in rule.check(module)]
    practices = [p for practice in all_practices() if _concerns(practice.words, module) for p in practice.check(module)]
    kept = [_weighed(f, module.config) for f in findings if not _credited(f, practices)]
    return FileResult(
        facts=FileFacts(path=module.path, lines=len(module.lines), role=module.role),
        findings=tuple(sorted(kept, key=lambda f: f.order)),
        practices=tuple(sorted(practices, key=lambda p: p.order)),
    )


def _concerns(words: tuple[str, ...], module: Module) -> bool:
    return not words or module.mentions(words)


def _selected(rule: Rule, config: AuditConfig) -> bool:
    if not config.select:
        return not rule.preview
    return rule.code in config.select or (not rule.preview and _starts(rule.code, config.select))


def _starts(code: str, prefixes: tuple[str, ...]) -> bool:
    return any(code.startswith(prefix) for prefix in prefixes)


def _credited(finding: Finding, practices: list[GoodPractice]) -> bool:
    return any(finding.code in p.covers and p.line <= finding.line <= p.end_line for p in practices)


def _weighed(finding: Finding, config: AuditConfig) -> Finding:
    longest = max((p for p in config.severity if finding.code.startswith(p)), key=len, default=None)
    if longest is None:
        return finding
    from dataclasses import replace

    return replace(finding, severity=Severity.of(config.severity[longest]))
