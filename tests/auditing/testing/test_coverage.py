"""The coverage table over several files, the rule TST001 that is told from it, and the two practices."""

import pytest

from ampguard import audit
from ampguard.auditing.config import AuditConfig
from ampguard.auditing.coverage import coverage

TRAIN = """
import torch
import wandb
from torch.amp import GradScaler


def setup(use_amp):
    return GradScaler("cuda") if use_amp and torch.cuda.is_available() else None


def report(loss):
    if wandb.run is not None:
        wandb.log({"loss": loss})


def throughput(samples, elapsed):
    return samples / max(elapsed, 1e-9)


def choose(precision):
    if precision in ("fp32", "fp16", "bf16"):
        return precision
    raise ValueError(precision)
"""
TESTS = """
from unittest import mock

from train import choose, report, setup, throughput


def test_setup_without_a_gpu():
    with mock.patch("torch.cuda.is_available", return_value=False):
        assert setup(True) is None


def test_throughput():
    assert throughput(4, elapsed=0) > 0


def test_choose():
    assert choose(precision="fp16") == "fp16"
"""


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """Audit several files {name: text}."""

    def run(files, **options):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return audit(".", config=AuditConfig(**options))

    return run


def states(report):
    return {row.key: row.state for row in coverage(report.files)}


def test_each_scenario_has_its_state(audited):
    found = states(audited({"train.py": TRAIN, "tests/test_train.py": TESTS}))
    assert found["cpu-fallback"] == found["zero-denominator"] == "tested"
    assert found["tracker-run-none"] == found["tracker-failing"] == found["scaler-construction"] == "untested"
    assert found["checkpoint-damaged"] == found["resume"] == "not_applicable"


def test_a_precision_that_no_test_names_is_missing(audited):
    report = audited({"train.py": TRAIN, "tests/test_train.py": TESTS})
    row = next(row for row in coverage(report.files) if row.key == "precision-names")
    assert (row.state, row.missing) == ("partly", ("fp32", "bf16"))


def test_all_precisions_by_a_parametrization(audited):
    tests = 'import pytest\nALL = ("fp32", "fp16", "bf16")\n\n\n@pytest.mark.parametrize("precision", ALL)\n'
    tests += "def test_choose(precision):\n    assert choose(precision)\n"
    assert states(audited({"train.py": TRAIN, "tests/test_train.py": tests}))["precision-names"] == "tested"


def test_one_finding_a_scenario_at_the_first_place(audited):
    report = audited({"train.py": TRAIN, "tests/test_train.py": TESTS}, select=("TST",))
    assert {(f.line, str(f.severity)) for f in report.findings} == {
        (8, "info"),
        (12, "info"),
        (13, "info"),
        (21, "info"),
    }
    assert any("fp32, bf16" in f.message for f in report.findings)


def test_nothing_is_missed_where_no_tests_are_audited(audited):
    report = audited({"train.py": TRAIN, "other.py": "x = 1\n"}, select=("TST",))
    assert report.findings == ()
    assert states(report)["cpu-fallback"] == "no_tests"


def test_a_folder_of_tests_without_a_test_is_no_test(audited):
    report = audited({"train.py": TRAIN, "tests/data.py": "x = 1\n"}, select=("TST",))
    assert report.findings == ()


@pytest.mark.parametrize(
    "options", [{"ignore": ("TST",)}, {"per_file": {"train.py": ("TST001",)}}, {"select": ("ERR",)}]
)
def test_the_rule_is_switched_like_any_other(audited, options):
    report = audited({"train.py": TRAIN, "tests/test_train.py": TESTS}, **options)
    assert [f for f in report.findings if f.code == "TST001"] == []


def test_its_severity_is_set_like_any_others(audited):
    report = audited({"train.py": TRAIN, "tests/test_train.py": TESTS}, select=("TST",), severity={"TST": "low"})
    assert {str(f.severity) for f in report.findings} == {"low"}


def test_the_table_does_not_depend_on_the_order_of_files(audited):
    files = audited({"train.py": TRAIN, "tests/test_train.py": TESTS}).files
    assert coverage(files) == coverage(files[::-1])


def test_edge_cases_and_fallbacks_are_credited_once_a_test(practices):
    text = """
from unittest import mock


def test_extremes():
    assert scale_of(Trainer(loss_scale=0.0)) == 0.0
    assert scale_of(Trainer(loss_scale=1e30, loss=float("nan"))) == 1e30


def test_cpu_fallback():
    with mock.patch("torch.cuda.is_available", return_value=False):
        assert setup(True) is None
"""
    found = [(p.name, p.line, p.end_line) for p in practices({"tests/test_amp.py": text})]
    assert found == [("edge-case-tests", 5, 7), ("cpu-fallback-tested", 10, 12)]
