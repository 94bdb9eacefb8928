import json
import math

import pytest

from ampguard.benchmarking.parity import Outcome, choose_metric, judge, largest_gap, not_measured, read_outcome


def runs(*values, metric="val/loss", curve=()):
    return {seed: Outcome(final={metric: value}, curve=curve) for seed, value in enumerate(values)}


def judged(base, other, metric="val/loss", **margins):
    options = {"metric": metric, "steps": 20, "accuracy_margin": 0.01, "loss_margin": 0.01} | margins
    return judge(base, other, **options)


def test_a_loss_is_compared_relatively_and_a_share_absolutely():
    loss = judged(runs(2.0, 2.0, 2.0), runs(2.2, 2.2, 2.2))
    assert (loss.kind, loss.result) == ("relative", "different")
    assert loss.difference == pytest.approx(0.1)
    base, other = runs(0.5, 0.5, 0.5, metric="val/accuracy"), runs(0.505, 0.505, 0.505, metric="val/accuracy")
    share = judged(base, other, "val/accuracy")
    assert (share.kind, share.result) == ("absolute", "equivalent")
    assert share.difference == pytest.approx(0.005)


def test_a_loss_within_0_and_1_is_no_share():
    assert judged(runs(0.5, 0.5, 0.5), runs(0.5, 0.5, 0.5)).kind == "relative"
    assert (
        judged(
            runs(50.0, 51.0, 52.0, metric="val/accuracy"), runs(50.0, 51.0, 52.0, metric="val/accuracy"), "val/accuracy"
        ).kind
        == "relative"
    )


def test_seeds_are_paired_so_that_their_luck_cancels():
    found = judged(runs(1.0, 2.0, 3.0), runs(1.001, 2.002, 3.003))
    assert found.result == "equivalent"
    assert found.difference == pytest.approx(0.001)
    assert found.baseline_spread == pytest.approx(0.5)


def test_a_baseline_of_exactly_0_is_not_measured_with_the_reason():
    found = judged(runs(0.0, 0.0, 0.0), runs(0.1, 0.1, 0.1))
    assert (found.result, found.difference, found.ci90) == ("not_measured", None, None)
    assert "val/loss is 0" in found.reason
    assert found.baseline_spread is None


def test_one_seed_is_not_measured_with_the_reason():
    found = judged(runs(1.0), runs(1.0))
    assert found.result == "not_measured"
    assert found.reason == "a verdict needs 3 seeds, and there are 1"


def test_runs_without_the_metric_are_left_out_and_said():
    other = runs(1.0, 1.0, 1.0, 1.0)
    other[3] = Outcome(final={}, curve=())
    found = judged(runs(1.0, 1.0, 1.0, 1.0), other)
    assert (found.result, found.seeds) == ("equivalent", 3)
    for seed in range(3):
        other[seed] = Outcome(final={}, curve=(), failure="no")
    assert judged(runs(1.0, 1.0, 1.0, 1.0), other).reason.startswith("val/loss is missing or not finite in 4 of 4")


def test_the_metric_is_what_was_asked_else_accuracy_else_loss():
    both = [Outcome(final={"val/loss": 1.0, "val/accuracy": 0.5, "val/f1": 0.1}, curve=())]
    assert choose_metric(both, None) == "val/accuracy"
    assert choose_metric(both, "val/f1") == "val/f1"
    assert choose_metric(both, "val/mae") is None
    assert choose_metric([Outcome(final={"train/loss": 1.0}, curve=())], None) is None


def test_the_largest_gap_of_mean_curves_is_found_where_both_have_a_row():
    base = [((10, 2.0), (20, 1.0)), ((10, 4.0), (20, 1.0))]
    other = [((10, 3.0), (20, 1.5), (30, 9.0)), ((10, 3.0), (20, 1.5))]
    assert largest_gap(base, other) == (0.5, 20)
    assert largest_gap([((10, 0.0),)], [((10, 1.0),)]) is None
    assert largest_gap([], []) is None


def test_no_parity_keeps_its_reason():
    found = not_measured("because", margin=0.01)
    assert (found.result, found.reason, found.seeds, found.metric) == ("not_measured", "because", 0, "val/loss")


def test_a_run_folder_counts_when_it_is_finished(tmp_path):
    assert read_outcome(tmp_path) is None
    record = {"schema": 1, "status": "interrupted", "final": {"val/loss": 1.0, "val/bad": None}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0, "amp/loss_scale": 8.0}\n{"step": 2, "tra')
    assert read_outcome(tmp_path) is None
    (tmp_path / "run.json").write_text(json.dumps(record | {"status": "finished"}))
    found = read_outcome(tmp_path)
    assert found.curve == ((1, 2.0),)
    assert found.loss_scale == ((1, 8.0),)
    assert found.final == {"val/loss": 1.0}
    (tmp_path / "run.json").write_text(json.dumps(record | {"schema": 99}))
    assert read_outcome(tmp_path) is None


def test_a_difference_that_is_not_finite_is_not_measured():
    found = judged(runs(1.0, 1.0, 1.0), runs(1.0, math.inf, 1.0))
    assert found.result == "not_measured"
