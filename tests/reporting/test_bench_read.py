"""bench.json and the parity runs as plain numbers: what is damaged, missing or unknown."""

import json

import pytest

from ampguard.errors import InputError, RunFolderError
from ampguard.reporting.bench import as_dict, find_bench, read_bench


def test_figures_are_read_as_they_stand(make_bench):
    bench = read_bench(make_bench())
    half = bench.trial("bf16-mixed")
    assert [trial.precision for trial in bench.trials] == ["fp32", "bf16-mixed", "fp16-mixed", "fp8", "tf32"]
    assert (half.speedup, half.ci95, half.peak_mib, half.saved_pct) == (1.8, (1.78, 1.82), 276.0, 31.0)
    assert half.parts["activations"] == 138.0
    assert (half.parity.difference, half.parity.ci90, half.parity.result) == (0.001, (-0.002, 0.004), "equivalent")
    assert bench.base.is_baseline and len(bench.others) == 4


def test_the_json_file_stands_for_its_folder(make_bench):
    path = make_bench()
    assert read_bench(path / "bench.json").path == read_bench(path).path == path


def test_what_is_no_number_is_missing_and_not_an_error(make_bench, made):
    odd = {
        **made.trial("fp32", [1.0, 2.0], parity="none"),
        "step_ms": "slow", "samples_ms": [1.0, float("nan"), None, "2", True], "speedup": {"ci95": [1.0]},
        "memory_mib": [4], "peak_memory_mib": float("inf"), "targets": {"speedup_1_5x": "yes"}, "reasons": 7,
        "a_later_field": {"x": 1},
    }  # fmt: skip
    bench = read_bench(make_bench(trials=[odd, "no trial"], settings=None, warnings="none", against=3, wall_s="long"))
    (trial,) = bench.trials
    assert (trial.step_ms, trial.samples_ms, trial.ci95, trial.peak_mib) == (None, (1.0,), None, None)
    assert (dict(trial.parts), dict(trial.reasons), trial.aims["speedup_1_5x"]) == ({}, {}, None)
    assert (trial.parity.result, bench.warnings, dict(bench.settings), bench.wall_s) == ("not_measured", (), {}, None)
    json.dumps(as_dict(bench), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[1]", "no result of a bench"),
        ('{"schema": 1}', "no result of a bench"),
        ('{"schema": 2, "trials": []}', "has schema 2; this version reads 1"),
    ],
)
def test_what_is_no_bench_is_refused(tmp_path, text, said):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_bench(tmp_path)


def test_a_bench_is_found_among_paths_and_stands_alone(make_bench, make_run):
    bench, run = make_bench(), make_run()
    assert find_bench([bench]) == bench
    assert find_bench([bench / "bench.json"]) == bench / "bench.json"
    assert find_bench([run, run]) is None
    with pytest.raises(InputError, match="2 folders were given"):
        find_bench([run, bench])


def test_curves_are_means_over_seeds_between_the_lowest_and_the_highest(make_bench, made):
    trained = read_bench(make_bench(seeds=3)).trained["bf16-mixed"]
    first = trained.loss.buckets[0]
    assert trained.seeds == (0, 1, 2)
    assert (first.first[0], first.mean) == (10, pytest.approx(made.loss(10, 1) + 0.05))
    assert (first.low[1], first.high[1]) == pytest.approx((made.loss(10, 0) + 0.05, made.loss(10, 2) + 0.05))
    assert dict(trained.finals) == pytest.approx({0: 2.005, 1: 2.015, 2: 2.025})


def test_only_fp16_has_a_loss_scale(make_bench):
    trained = read_bench(make_bench()).trained
    assert trained["fp16-mixed"].loss_scale.points[0] == (10, 65536.0)
    assert trained["fp32"].loss_scale is None


def test_a_seed_that_the_baseline_has_not_finished_is_not_shown(make_bench, made):
    path = make_bench(seeds=2)
    made.run(path / "parity" / "bf16-mixed" / "seed-2", "bf16-mixed", 2)
    made.run(path / "parity" / "fp32" / "seed-2", "fp32", 2, status="interrupted")
    made.run(path / "parity" / "bf16-mixed" / "seed-x", "bf16-mixed", 9)
    assert read_bench(path).trained["bf16-mixed"].seeds == (0, 1)


def test_a_precision_does_not_lead_out_of_the_folder(make_bench, made):
    path = make_bench(trials=[made.trial("../../other", [1.0], parity=None)], baseline="../../other", trained=())
    (path / "parity").mkdir()
    made.run(path.parent / "other" / "seed-0", "fp32", 0)
    assert read_bench(path).trained == {}


def test_a_parity_run_that_cannot_be_read_is_left_out(make_bench):
    path = make_bench(seeds=2)
    (path / "parity/fp32/seed-1/run.json").write_text('{"schema": 9}')
    assert read_bench(path).trained["fp32"].seeds == (0,)


def test_the_json_has_what_the_bench_found_and_what_its_runs_logged(make_bench):
    held = json.loads(json.dumps(as_dict(read_bench(make_bench(seeds=3))), allow_nan=False))
    assert held["trials"][1]["speedup"]["median"] == 1.8
    assert held["trained"]["fp32"]["seeds"] == [0, 1, 2]
    assert held["trained"]["fp32"]["final"] == {"0": 2.0, "1": 2.01, "2": 2.02}
    assert held["trained"]["fp32"]["train/loss"][0]["step"] == 10
    assert held["trained"]["fp32"]["amp/loss_scale"] is None
