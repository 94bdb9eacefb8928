"""The criteria: which questions decide, and how each is answered from what was found.

Each is met (looked for, not found), triggered, not applicable (the code has no such thing), or unknown (its rules were
not asked, or a static reading cannot tell), always with the evidence. A triggered "block" blocks, a triggered "warn"
warns, "info" is for the reader. Whatever is found from medium up triggers at least one of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ampguard.auditing.evidence import Evidence, codes_in, codes_of, counted, listed, placed
from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.outcome import Criterion

EMPTY_HANDLERS = 5
"""Findings from medium up of handlers that do nothing, above which a code base is blocked. Source: the seed report."""

SILENT = ("bare-except", "swallowed-exception", "critical-operation-swallowed")


@dataclass(frozen=True)
class Question:
    """A criterion that is triggered by findings of certain rules.

    Attributes:
        level: See `Criterion.level`.
        name: See `Criterion.name`.
        rules: Names of the rules that are asked.
        family: A family's folder whose rules are asked too.
        least: The severity from which a finding triggers.
        kinds: Kinds of outside world (`facts.PACKAGES`, or "training step", "checkpoint") without any of which the
            question does not apply; () where it always does.
        only: Which of the findings count.
        met: Says what was looked at, where nothing was found.
    """

    level: str
    name: str
    rules: tuple[str, ...] = ()
    family: str = ""
    least: Severity = Severity.LOW
    kinds: tuple[str, ...] = ()
    only: Callable[[Finding], bool] | None = None
    met: Callable[[Evidence], str] = lambda evidence: f"not found in {counted(len(evidence.facts), 'file')}"


def _names_database(finding: Finding) -> bool:
    return "database" in finding.message


def _handlers(evidence: Evidence) -> str:
    told, silent = evidence.total("handlers_logged"), evidence.total("handlers_silent")
    return (
        f"{counted(told, 'handler')} of {told + silent} tell what they caught, and no other was found to hide a fault"
    )


def _broad(evidence: Evidence) -> str:
    broad = evidence.total("broad_excepts")
    if not broad:
        return "no `except Exception` found"
    told = len(evidence.of(codes_of("broad-except"), Severity.INFO))
    return f"{counted(broad, 'handler')} of any exception, acceptable where they are; {told} of them listed as info"


def _fails_fast(evidence: Evidence) -> str:
    where = listed(evidence.worlds("training step", "checkpoint"))
    return f"no handler between these and their callers keeps a failure to itself: {where}"


CRITICAL_PATH = ("training step", "checkpoint")

QUESTIONS = (
    Question(
        "block",
        "Critical operation error swallowed",
        ("critical-operation-swallowed",),
        least=Severity.CRITICAL,
        kinds=(*CRITICAL_PATH, "database"),
        met=_fails_fast,
    ),
    Question(
        "block",
        "No logging on the critical path",
        SILENT,
        least=Severity.HIGH,
        kinds=CRITICAL_PATH,
        only=lambda finding: finding.critical_path,
        met=_fails_fast,
    ),
    Question("block", "Stack traces exposed to users", ("traceback-shown",), least=Severity.MEDIUM),
    Question(
        "block",
        "Database errors not logged",
        (*SILENT, "broad-except"),
        least=Severity.MEDIUM,
        kinds=("database",),
        only=_names_database,
    ),
    Question(
        "warn",
        "Generic except without a check of the error's type",
        ("broad-except", "bare-except", "swallowed-exception"),
        met=_broad,
    ),
    Question(
        "warn",
        "Missing error context in logs",
        ("silent-import-error", "error-logged-without-context"),
        met=_handlers,
    ),
    Question(
        "warn", "No retry or timeout for transient failures", ("missing-timeout", "missing-retry"), kinds=("network",)
    ),
    Question("warn", "User error messages too technical", ("traceback-shown",)),
    Question("warn", "Wrong error propagation", family="errors", least=Severity.MEDIUM, met=_handlers),
    Question("warn", "Unguarded numeric operation", family="numbers"),
    Question("warn", "Optional value used without a guard", family="optional", least=Severity.MEDIUM),
    Question("warn", "Fault in mixed precision", family="amp", least=Severity.MEDIUM),
    Question("warn", "Fault in checkpoints", family="checkpoints", least=Severity.MEDIUM),
    Question("warn", "Fault in trackers, or a secret in code", family="trackers", least=Severity.MEDIUM),
    Question(
        "info", "Host synchronisation in hot loops", family="syncs", least=Severity.INFO, kinds=("training step",)
    ),
    Question("info", "Error scenarios without a test", family="testing", least=Severity.INFO),
    Question("info", "Comments that silence nothing", family="ignores", least=Severity.INFO),
)


def criteria(evidence: Evidence) -> tuple[Criterion, ...]:
    """Return every criterion with its answer: blocking ones first, then warning ones, then information."""
    every = [*_answers(evidence), *_beside_rules(evidence)]
    return tuple(c for level in ("block", "warn", "info") for c in every if c.level == level)


def _answers(evidence: Evidence) -> Iterator[Criterion]:
    for question in QUESTIONS:
        result, said = _answer(question, evidence)
        yield Criterion(level=question.level, name=question.name, result=result, evidence=said)


def _answer(question: Question, evidence: Evidence) -> tuple[str, str]:
    codes = codes_of(*question.rules, family=question.family)
    found = [f for f in evidence.of(codes, question.least) if question.only is None or question.only(f)]
    if found:
        return "triggered", f"{counted(len(found), 'finding')} ({codes_in(found)}): {placed(found)}"
    if not evidence.facts:
        return "unknown", "no file but tests was read"
    if question.kinds and not evidence.worlds(*question.kinds):
        return "not_applicable", f"no {' or '.join(question.kinds)} in {counted(len(evidence.facts), 'file')}"
    if not evidence.asked(codes):
        return "unknown", "its rules were not asked in this run"
    return "met", question.met(evidence)


def _beside_rules(evidence: Evidence) -> Iterator[Criterion]:
    """Yield the criteria that are answered from counts, not from certain rules."""
    yield _empty_handlers(evidence)
    yield _others(evidence, "block", "Critical fault", Severity.CRITICAL)
    yield _others(evidence, "warn", "Other fault of medium or higher severity", Severity.MEDIUM)
    unread = evidence.report.unreadable
    said = listed([f"{item.path} ({item.reason})" for item in unread])
    yield Criterion(
        level="warn",
        name="Files that could not be read",
        result="triggered" if unread else "met",
        evidence=f"{len(unread)}: {said}" if unread else f"all {counted(len(evidence.report.files), 'file')} read",
    )
    tracing = evidence.worlds("tracing")
    yield Criterion(
        level="info",
        name="Missing correlation IDs in logs",
        result="unknown" if tracing else "not_applicable",
        evidence=f"distributed tracing is used, and a static reading does not see which IDs its logs carry: "
        f"{listed(tracing)}"
        if tracing
        else "no distributed tracing found",
    )


def _empty_handlers(evidence: Evidence) -> Criterion:
    lines = {(facts.path, line) for facts in evidence.facts for line in facts.empty_handlers}
    faults = [f for f in evidence.of(codes_of(*SILENT), Severity.MEDIUM) if (f.path, f.line) in lines]
    where = f": {placed(faults)}" if faults else ""
    silent = evidence.total("handlers_silent")
    return Criterion(
        level="block",
        name=f"Empty handlers (more than {EMPTY_HANDLERS})",
        result="triggered" if len(faults) > EMPTY_HANDLERS else "met",
        evidence=f"{len(faults)} that swallow any exception{where}; {len(lines)} do nothing with it, with or without "
        f"a reason; {silent} of any kind tell nobody",
    )


def _others(evidence: Evidence, level: str, name: str, least: Severity) -> Criterion:
    """Return the criterion of findings from a severity on that no question of this level asks about."""
    asked = [q for q in QUESTIONS if q.level == level and q.least <= least and q.only is None]
    covered = frozenset[str]().union(*(codes_of(*q.rules, family=q.family) for q in asked))
    found = evidence.of({f.code for f in evidence.findings} - covered, least)
    said = f"{counted(len(found), 'finding')} ({codes_in(found)}): {placed(found)}" if found else "none found"
    return Criterion(level=level, name=name, result="triggered" if found else "met", evidence=said)
