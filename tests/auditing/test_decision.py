import math
from dataclasses import replace

import pytest

from ampguard.auditing.config import AuditConfig
from ampguard.auditing.criteria import QUESTIONS
from ampguard.auditing.decision import decided
from ampguard.auditing.findings import FileFacts, FileResult, Finding, GoodPractice, Severity, Unreadable
from ampguard.auditing.outcome import AuditReport
from ampguard.auditing.rules import FAMILIES, all_rules, rule_named
from ampguard.auditing.score import COSTS, damped, grade, score

CRITICAL, HIGH, MEDIUM, LOW, INFO = sorted(Severity, reverse=True)
TRAINS = (("training step", "lines 4, 9"),)


def finding(code, severity=None, *, path="train.py", line=3, critical_path=False, message="m"):
    rule = rule_named(code)
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=rule.severity if severity is None else severity,
        likelihood="likely",
        path=path,
        line=line,
        column=1,
        end_line=line,
        message=message,
        impact="i",
        risk="r",
        fix="f",
        critical_path=critical_path,
    )


def report(*findings, facts=TRAINS, role="library", unreadable=(), practices=(), config=None, **counts):
    """Return the decided report on one file, train.py, with these findings and facts."""
    file = FileFacts(path="train.py", lines=9, role=role, facts=facts, **counts)
    return decided(
        AuditReport(
            version="0",
            decision="",
            score=0,
            grade="",
            files=(FileResult(facts=file, findings=findings, practices=practices),),
            unreadable=unreadable,
            config=config or AuditConfig(),
        )
    )


def answer(report, name):
    (found,) = [c for c in report.criteria if c.name.startswith(name)]
    return found


def row(report, name):
    (found,) = [r for r in report.compliance if r.criterion == name]
    return found


def test_nothing_found_costs_nothing():
    assert score([]) == 100 and grade(100) == "A+"
    assert score([finding("ERR004", INFO)] * 50) == 100


@pytest.mark.parametrize(("severity", "cost"), [(CRITICAL, 25), (HIGH, 12), (MEDIUM, 6), (LOW, 2)])
def test_one_finding_costs_what_its_severity_costs(severity, cost):
    assert score([finding("ERR001", severity)]) == 100 - cost


def test_findings_of_different_rules_add_up():
    assert score([finding("ERR001", MEDIUM), finding("ERR003", LOW), finding("AUD001", LOW)]) == 90


@pytest.mark.parametrize("k", [1, 2, 3, 7, 50])
def test_k_equal_findings_of_a_rule_in_a_file_cost_as_1_plus_log2_k(k):
    assert damped([2.0] * k) == pytest.approx(2 * (1 + math.log2(k)))
    assert score([finding("ERR003", LOW, line=n) for n in range(k)]) == math.floor(100 - 2 * (1 + math.log2(k)) + 0.5)


def test_the_same_law_counts_the_files_of_a_rule():
    one = [finding("ERR003", LOW, path=f"{n}.py") for n in range(8)]
    assert score(one) == 100 - 2 * 4
    assert score([*one, *one]) == 100 - 2 * 2 * 4


def test_the_worst_of_a_rule_counts_wholly_whatever_the_order():
    mixed = [finding("ERR001", s, line=n) for n, s in enumerate([LOW, HIGH, LOW, MEDIUM])]
    assert score(mixed) == score(mixed[::-1]) == math.floor(100 - damped([12, 6, 2, 2]) + 0.5)
    assert damped([12, 6]) == 18


def test_more_findings_never_raise_the_score_and_zero_is_the_floor():
    found, last = [], 100
    for n, rule in enumerate(all_rules() * 3):
        found.append(finding(rule.code, CRITICAL, path=f"{n}.py"))
        assert score(found) <= last
        last = score(found)
    assert last == 0 and grade(0) == "F"


def test_grades_fall_with_the_score_and_82_is_the_seeds_b_plus():
    letters = [grade(points) for points in range(100, -1, -1)]
    assert list(dict.fromkeys(letters)) == ["A+", "A", "A-", "B+", "B", "B-", "C+", "C", "C-", "D+", "D", "D-", "F"]
    assert grade(82) == "B+" and grade(81) == "B" and grade(97) == "A+" and grade(41) == "F"


def test_a_clean_file_passes_with_evidence_for_every_criterion():
    clean = report()
    assert (clean.decision, clean.score, clean.grade) == ("PASS", 100, "A+")
    assert all(c.evidence and c.result in ("met", "not_applicable") for c in clean.criteria)
    assert [c.level for c in clean.criteria] == sorted(
        (c.level for c in clean.criteria), key=["block", "warn", "info"].index
    )


BLOCKS = [
    (finding("ERR006", CRITICAL, critical_path=True), TRAINS, "Critical operation error swallowed"),
    (finding("ERR001", HIGH, critical_path=True), TRAINS, "No logging on the critical path"),
    (finding("ERR007", MEDIUM), TRAINS, "Stack traces exposed"),
    (
        finding("ERR002", MEDIUM, message="the database write db.commit()"),
        (("database", "sqlite3 (line 1)"),),
        "Database",
    ),
    (finding("ERR002", CRITICAL), (), "Critical fault"),
    (finding("AMP001", CRITICAL), TRAINS, "Critical fault"),
]


@pytest.mark.parametrize(("fault", "facts", "name"), BLOCKS)
def test_a_blocking_criterion_blocks_and_names_the_place(fault, facts, name):
    blocked = report(fault, facts=facts)
    assert blocked.decision == "BLOCK"
    assert answer(blocked, name).result == "triggered" and "train.py:3" in answer(blocked, name).evidence


def test_more_than_five_empty_handlers_block():
    empty = [finding("ERR002", MEDIUM, line=n) for n in range(1, 7)]
    assert report(*empty[:5], empty_handlers=(1, 2, 3, 4, 5)).decision == "WARN"
    assert report(*empty, empty_handlers=(1, 2, 3, 4, 5)).decision == "WARN"
    blocked = report(*empty, empty_handlers=(1, 2, 3, 4, 5, 6, 40), handlers_silent=9)
    assert blocked.decision == "BLOCK"
    said = answer(blocked, "Empty handlers").evidence
    assert said.startswith("6 that swallow any exception: train.py:1, train.py:2, train.py:3 and 3 more; 7 do nothing")
    assert said.endswith("9 of any kind tell nobody")


WARNS = [
    (finding("ERR004", LOW), "Generic except"),
    (finding("ERR003", LOW), "Missing error context"),
    (finding("ERR005", LOW), "Missing error context"),
    (finding("ERR007", LOW), "User error messages"),
    (finding("ERR001", MEDIUM), "Wrong error propagation"),
    (finding("NUM001", LOW), "Unguarded numeric"),
    (finding("AMP020", MEDIUM), "Fault in mixed precision"),
    (finding("CKP001", MEDIUM), "Fault in checkpoints"),
    (finding("CKP005", HIGH), "Fault in checkpoints"),
    (finding("TRK004", HIGH), "Fault in trackers"),
    (finding("NON001", MEDIUM), "Optional value"),
    (finding("AUD001", MEDIUM), "Other fault of medium or higher"),
]


@pytest.mark.parametrize(("fault", "name"), WARNS)
def test_a_warning_criterion_warns(fault, name):
    warned = report(fault)
    assert warned.decision == "WARN" and answer(warned, name).result == "triggered"


@pytest.mark.parametrize("code", ["NON001", "AMP020", "CKP001", "TRK004"])
def test_what_only_names_tell_decides_nothing(code):
    assert report(finding(code, LOW)).decision == "PASS"


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
@pytest.mark.parametrize("severity", [MEDIUM, HIGH])
def test_no_rule_passes_with_a_finding_of_medium_or_higher(rule, severity):
    assert report(finding(rule.code, severity)).decision in ("WARN", "BLOCK")


@pytest.mark.parametrize("fault", [finding("ERR004", INFO), finding("AMP027", LOW), finding("AUD001", LOW)])
def test_what_is_acceptable_passes_whatever_the_score(fault):
    assert report(*[replace(fault, line=n) for n in range(99)]).decision == "PASS"


def test_the_score_decides_nothing():
    cheap = report(finding("ERR003", LOW))
    dear = report(
        *[finding(rule.code, LOW, line=n) for n in range(99) for rule in all_rules() if rule.code[:3] == "AUD"]
    )
    assert (cheap.decision, dear.decision) == ("WARN", "PASS") and cheap.score > dear.score


def test_findings_in_tests_cost_points_and_decide_nothing():
    tested = report(finding("ERR001", LOW), finding("ERR003", LOW), role="test")
    assert (tested.decision, tested.score) == ("PASS", 96)
    assert answer(tested, "Wrong error propagation").result == "unknown"


def test_an_unreadable_file_warns_and_is_named():
    warned = report(unreadable=(Unreadable(path="b.py", reason="syntax error at line 3: invalid syntax"),))
    assert warned.decision == "WARN" and warned.score == 100
    assert "b.py (syntax error at line 3" in answer(warned, "Files that could not be read").evidence


def test_what_the_code_does_not_have_is_not_applicable():
    bare = report(facts=())
    for name in ("Critical operation", "Database", "No retry", "Missing correlation", "No logging"):
        assert answer(bare, name).result == "not_applicable", name
    traced = report(facts=(("tracing", "opentelemetry (line 1)"),))
    assert answer(traced, "Missing correlation").result == "unknown"
    assert "train.py: opentelemetry" in answer(traced, "Missing correlation").evidence


def test_what_was_not_asked_is_unknown_and_not_met():
    narrow = report(config=AuditConfig(select=("AMP",)))
    assert answer(narrow, "Fault in mixed precision").result == "met"
    assert answer(narrow, "Wrong error propagation").result == "unknown"
    assert row(narrow, "Consistent error propagation").status == "N/A"


def test_evidence_counts_all_and_names_the_first_places():
    found = report(*[finding("ERR003", LOW, line=n) for n in range(1, 8)])
    said = answer(found, "Missing error context").evidence
    assert said == "7 findings (ERR003): train.py:1, train.py:2, train.py:3 and 4 more"
    assert answer(report(finding("ERR003", LOW)), "Missing error context").evidence.startswith("1 finding (ERR003)")


def test_counts_either_way_are_the_evidence_of_what_is_met():
    told = report(finding("ERR004", INFO), broad_excepts=2, handlers_logged=6, handlers_silent=3)
    assert "2 handlers of any exception, acceptable" in answer(told, "Generic except").evidence
    assert "6 handlers of 9 tell" in answer(told, "Missing error context").evidence


def test_the_compliance_table_has_the_seeds_seven_lines():
    assert [r.criterion for r in report().compliance] == [
        "No swallowed critical errors",
        "All DB/API errors logged",
        "No stack traces to users",
        "Retry logic for transient failures",
        "Graceful degradation",
        "Error context in logs",
        "Consistent error propagation",
    ]
    assert all(r.notes and r.status in ("PASS", "PARTIAL", "FAIL", "N/A") for r in report().compliance)


def test_compliance_follows_the_criteria():
    swallowed = report(finding("ERR006", CRITICAL, critical_path=True))
    assert row(swallowed, "No swallowed critical errors").status == "FAIL"
    assert row(swallowed, "Consistent error propagation").status == "FAIL"
    passed_over = report(finding("ERR006", MEDIUM, critical_path=True))
    assert row(passed_over, "No swallowed critical errors").status == "PARTIAL"
    assert row(report(finding("ERR003", LOW)), "Error context in logs").status == "PARTIAL"
    assert row(report(finding("ERR007", MEDIUM)), "No stack traces to users").status == "FAIL"
    assert row(report(), "Retry logic for transient failures").status == "N/A"
    assert row(report(facts=()), "All DB/API errors logged").status == "N/A"


def test_credit_is_named_in_the_compliance_table():
    isolated = GoodPractice(name="tracker-isolation", path="train.py", line=5, end_line=9, message="m")
    credited = report(facts=(*TRAINS, ("tracker", "wandb (line 1)")), practices=(isolated,))
    assert row(credited, "All DB/API errors logged").status == "PASS"
    assert "train.py:5" in row(credited, "All DB/API errors logged").notes
    assert row(credited, "Graceful degradation").notes == "tracker-isolation: train.py:5"


def test_questions_name_rules_and_families_that_exist():
    assert {question.family for question in QUESTIONS if question.family} <= set(FAMILIES)
    missing = [name for question in QUESTIONS for name in question.rules if rule_named(name) is None]
    assert missing == []


def test_every_cost_has_a_severity():
    assert set(COSTS) == set(Severity)


def test_a_fault_is_one_reason_where_a_criterion_names_it():
    swallowed = report(finding("ERR006", CRITICAL))
    assert answer(swallowed, "Critical fault").result == "met"
    assert answer(report(finding("AMP020", MEDIUM)), "Other fault").result == "met"


def test_compliance_names_rules_and_practices_that_exist():
    from ampguard.auditing import compliance
    from ampguard.auditing.practices import all_practices

    assert set(compliance._DEGRADES) <= {practice.name for practice in all_practices()}
    named = (*compliance._TRACKERS, "cuda-assumed", "missing-timeout", "missing-retry")
    assert [name for name in named if rule_named(name) is None] == []
