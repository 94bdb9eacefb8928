"""All rules and practices over one file, with what suppresses findings taken into account."""

from collections.abc import Callable
from typing import Any, TypeVar

from ampguard.auditing.facts import facts_of, facts_unknown
from ampguard.auditing.findings import FileResult, Finding, GoodPractice
from ampguard.auditing.practices import Practice, all_practices
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules import Rule
from ampguard.auditing.rules.ignores.unused_ignore import UnusedIgnore
from ampguard.auditing.selection import chosen_rules as chosen_rules
from ampguard.auditing.selection import rules_for, weighed
from ampguard.auditing.suppress import ACROSS, ignores_in, silence, spans

T = TypeVar("T")
Failed = Callable[[str], None]
"""Told why a rule or practice could not finish a file."""


def analyse(module: Module, rules: tuple[Rule, ...], *, failed: Failed | None = None) -> FileResult:
    """Return what the rules and practices say of one file.

    Args:
        module: The file.
        rules: The rules to ask, before `per-file` leaves some out.
        failed: Told when a rule raises, whose findings in this file are then left out; None lets it raise.
    """
    rules = rules_for(module.path, rules, module.config.per_file)
    practices = [p for practice in all_practices() for p in _asked(practice, module, failed)]
    found = [f for rule in rules for f in _asked(rule, module, failed) if not _credited(f, practices)]
    ignores = ignores_in(module)
    kept = silence(module, found, ignores)
    for rule in rules:
        if isinstance(rule, UnusedIgnore):
            kept += silence(module, rule.judge(module, ignores, {r.code for r in rules}), ignores)
    return FileResult(
        facts=_tried(lambda: facts_of(module), "the count of handlers", failed) or facts_unknown(module),
        findings=tuple(sorted((weighed(f, module.config) for f in kept), key=lambda f: f.order)),
        practices=tuple(sorted(practices, key=lambda p: p.order)),
        silenced=spans(module, ignores, ACROSS),
    )


def _asked(asked: Rule | Practice, module: Module, failed: Failed | None) -> list[Any]:
    """Return the findings of a rule, or the practices of a kind, in one file."""
    if asked.words and not module.mentions(asked.words):
        return []
    return _tried(lambda: list(asked.check(module)), getattr(asked, "code", asked.name), failed) or []


def _tried(question: Callable[[], T], who: str, failed: Failed | None) -> T | None:
    """Return the answer to a question; None, with the reason told, where it raises."""
    if failed is None:
        return question()
    try:
        return question()
    except Exception as error:  # noqa: BLE001  one rule's fault on one file must not cost the rest of the audit
        failed(f"{who} failed on it: {type(error).__name__}: {_first_line(error)}")
        return None


def _credited(finding: Finding, practices: list[GoodPractice]) -> bool:
    return any(finding.code in p.covers and p.line <= finding.line <= p.end_line for p in practices)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or "no message"
