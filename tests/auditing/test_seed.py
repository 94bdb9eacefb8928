"""The seed report reproduced: its true issues at its lines with its severities, its good practices, its decision.

`seed/before` is code of our own in the shapes that the seed quotes, at its line numbers; `seed/after` is the same with
the seed's recommendations applied. Neither is run here. Severities of the seed that are not on its page (the divisions
have a likelihood only) are the ones that its recommendations imply.
"""

from difflib import unified_diff
from pathlib import Path

import pytest

from ampguard import audit
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.coverage import coverage

SEED = Path(__file__).parent / "seed"
TRAINING = "utils/tier3_training_utilities.py"
BENCHMARK = "utils/training/amp_benchmark.py"
TESTS = "tests/test_amp_utils.py"

ISSUES = {
    (TRAINING, 724, "bare-except", "medium"),
    (TRAINING, 357, "silent-import-error", "low"),
    (TRAINING, 830, "silent-import-error", "low"),
    (BENCHMARK, 115, "unguarded-division", "low"),
    (BENCHMARK, 116, "unguarded-division", "low"),
}
"""Every true issue of the seed, and nothing else of low severity or more."""

PRACTICES = {
    (TRAINING, 203, 206, "guarded-cuda-fallback"),
    (TRAINING, 515, 520, "tracker-isolation"),
    (TRAINING, 549, 549, "scaler-none-check"),
    (BENCHMARK, 162, 179, "tracker-isolation"),
    (TESTS, 203, 210, "edge-case-tests"),
    (TESTS, 291, 304, "cpu-fallback-tested"),
}


def audited(state, monkeypatch):
    monkeypatch.chdir(SEED / state)
    return audit(".", config=AuditConfig())


@pytest.fixture
def before(monkeypatch):
    return audited("before", monkeypatch)


@pytest.fixture
def after(monkeypatch):
    return audited("after", monkeypatch)


def told(report):
    return {(f.path, f.line, f.name, str(f.severity)) for f in report.findings if f.severity}


def test_every_true_issue_of_the_seed_is_found_and_no_other(before):
    assert told(before) == ISSUES


def test_every_good_practice_of_the_seed_is_credited(before):
    assert {(p.path, p.line, p.end_line, p.name) for p in before.good_practices} >= PRACTICES


def test_the_check_for_a_gpu_and_its_structured_error_are_credited(before):
    lines = {p.line for p in before.good_practices if p.path == BENCHMARK and "error-result" in p.name}
    assert lines & set(range(48, 56))


def test_the_guarded_get_scale_is_no_possible_none(before):
    # The seed calls line 518 a possible None dereference, because "get_scale() can return None if scaler is not
    # initialized". It cannot: the line stands under `env["scaler"] is not None`, and get_scale() of a scaler returns a
    # float. Line 549 is guarded in the same way, which the seed itself credits.
    assert [f for f in before.findings if f.line in (514, 518, 549)] == []


@pytest.mark.parametrize(
    ("path", "lines", "blocks", "logged", "silent", "bare", "broad"),
    [(TRAINING, 971, 9, 6, 3, 1, 1), (BENCHMARK, 207, 2, 2, 0, 0, 1), (TESTS, 380, 0, 0, 0, 0, 0)],
)
def test_the_counts_are_the_seeds(before, path, lines, blocks, logged, silent, bare, broad):
    # The seed counts three ImportErrors without logging and shows two: the third handler that tells nobody is the bare
    # `except:` at line 724, which it counts twice.
    facts = next(file.facts for file in before.files if file.facts.path == path)
    counted = (facts.lines, facts.try_blocks, facts.handlers_logged, facts.handlers_silent)
    assert counted == (lines, blocks, logged, silent)
    assert (facts.bare_excepts, facts.broad_excepts) == (bare, broad)


def test_what_is_broad_around_the_tracker_is_acceptable(before):
    # "ACCEPTABLE in this context": at most information, never an issue.
    assert all(not f.severity for f in before.findings if f.line in (519, 176))


def test_the_seeds_test_coverage_is_found(before):
    states = {row.key: row.state for row in coverage(before.files)}
    tested = {"cpu-fallback", "scaler-none", "extreme-scales", "tracker-run-none", "precision-names"}
    assert {key for key in tested if states[key] != "tested"} == set()
    assert states["zero-denominator"] == states["scaler-construction"] == "untested"


def test_the_seeds_lines_of_tests_are_the_evidence(before):
    lines = {row.key: [test.line for test in row.tests] for row in coverage(before.files)}
    assert 291 in lines["cpu-fallback"]
    assert 199 in lines["scaler-none"]
    assert 203 in lines["extreme-scales"]
    assert 219 in lines["tracker-run-none"]


def test_the_decision_is_the_seeds(before):
    assert before.decision == "WARN"
    assert not [c for c in before.criteria if c.level == "block" and c.result == "triggered"]


def test_the_recommendations_lead_to_pass(after):
    assert after.decision == "PASS"
    assert told(after) == set()


def test_after_differs_by_the_recommendations_only():
    changed = 0
    for path in (TRAINING, BENCHMARK, TESTS):
        old, new = ((SEED / state / path).read_text(encoding="utf-8").split("\n") for state in ("before", "after"))
        marks = [line[0] for line in unified_diff(old, new, n=0, lineterm="")][2:]
        changed += marks.count("+")
    assert changed == 10
