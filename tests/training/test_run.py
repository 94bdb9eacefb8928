import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ampguard.errors import CheckpointError, ConfigError, RunFolderError, TaskError, UserCodeError
from ampguard.task import Sum
from ampguard.training import train

PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed")


def run(task, out, **options):
    options = {"precision": "fp32", "log_every": 1, **options}
    return train(task, out=out, **options)


@pytest.fixture(autouse=True)
def quiet_emulation(caplog):
    caplog.set_level("ERROR", logger="ampguard")


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_run_leaves_the_folder_of_the_contract(toy, tmp_path, read):
    record = run(toy(), tmp_path / "run", steps=7)
    left = read(tmp_path / "run")
    assert left.record == json.loads(json.dumps(record.as_dict()))
    assert [row["step"] for row in left.rows] == list(range(1, 8))
    assert all(re.fullmatch(r"[a-z0-9_/]+", key) for row in left.rows for key in row)
    assert {"train/loss", "train/lr", "train/grad_norm", "amp/enabled", "amp/applied_steps"} <= left.rows[0].keys()
    assert "val/loss" in left.rows[-1]
    assert left.facts["precision"]["granted"] == "fp32"
    assert left.facts["config"]["steps"] == 7
    assert record.status == "finished" and record.steps.applied == 7


def test_a_metric_that_is_not_finite_is_null_in_json_and_nowhere_a_number(toy, tmp_path, read):
    values = {"loss": math.nan, "score": -math.inf, "fine": 1.0}
    task = replace(toy(), evaluate=lambda model, batch: {key: Sum(value, 1.0) for key, value in values.items()})
    record = run(task, tmp_path / "run", steps=3, validate_every=3)
    left = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert (left["final"]["val/loss"], left["final"]["val/score"], left["final"]["val/fine"]) == (None, None, 1.0)
    assert json.dumps(record.as_dict(), allow_nan=False) and "nan" in str(record)
    assert {"val/loss", "val/score"}.isdisjoint(read(tmp_path / "run").rows[-1])
    told = [event["message"] for event in read(tmp_path / "run").events if event["event"] == "nonfinite"]
    assert told == ["val/loss was not finite", "val/score was not finite"]


def test_a_name_that_is_no_name_of_a_folder_still_stands_under_runs(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("../../läuft/<b>", "..", "", "x" * 300):
        record = train(replace(toy(), name=name), steps=1, precision="fp32", report=False)
        assert Path(record.run_dir).parent == Path("runs") and Path(record.run_dir, "run.json").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_interrupted_and_resumed_equals_uninterrupted(toy, tmp_path, read, precision):
    options = {"precision": precision, "on_unsupported": "emulate", "ema": 0.9, "init_scale": 2.0**24}
    run(toy(), tmp_path / "whole", **options)
    record = run(toy(interrupt_at=8), tmp_path / "cut", **options)
    assert (record.status, record.steps.attempted) == ("interrupted", 8)
    record = run(toy(), tmp_path / "cut", resume="auto", **options)
    assert (record.status, record.resumed_from) == ("finished", 8)
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert_same_weights(whole.weights, cut.weights)
    assert whole.numbers() == cut.numbers()


def test_a_resumed_run_takes_everything_else_from_its_folder(toy, tmp_path, read):
    run(toy(), tmp_path / "whole", lr=3e-3, seed=5)
    run(toy(interrupt_at=11), tmp_path / "cut", lr=3e-3, seed=5)
    train(toy(), resume=str(tmp_path / "cut"))
    assert_same_weights(read(tmp_path / "whole").weights, read(tmp_path / "cut").weights)


def test_micro_batches_take_the_same_steps(toy, tmp_path, read):
    for summed in (True, False):
        whole = run(toy(summed=summed, norm=False, dropout=0.0), tmp_path / f"whole{summed}")
        cut = run(toy(summed=summed, norm=False, dropout=0.0), tmp_path / f"cut{summed}", micro_batch_size=7)
        # The same sum in another order: float32 rounding over 20 steps of a handful of additions each.
        assert cut.final["train/loss"] == pytest.approx(whole.final["train/loss"], rel=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_poisoned_batch_is_skipped_and_named(toy, tmp_path, read, precision):
    record = run(toy(poison_at=5), tmp_path / "run", precision=precision, on_unsupported="emulate", init_scale=256.0)
    left = read(tmp_path / "run")
    assert record.steps.skipped == 1 and record.steps.applied == 19
    assert [event["step"] for event in left.events if event["event"] == "skip"] == [5]
    assert "train/loss" not in left.rows[4] and left.rows[4]["amp/skipped_steps"] == 1
    assert all(torch.isfinite(value).all() for value in left.weights.values())


def test_auto_is_decided_once_and_kept_on_resume(toy, tmp_path, read):
    first = run(toy(interrupt_at=4), tmp_path / "run", precision="auto")
    second = run(toy(), tmp_path / "run", precision="auto", resume="auto")
    assert first.precision == second.precision


def test_timing_the_precision_leaves_no_trace(toy, tmp_path, read):
    run(toy(), tmp_path / "timed", precision="auto")
    granted = read(tmp_path / "timed").facts["precision"]["granted"]
    run(toy(), tmp_path / "given", precision=granted)
    assert_same_weights(read(tmp_path / "timed").weights, read(tmp_path / "given").weights)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_first_difference(toy, tmp_path):
    run(toy(interrupt_at=4), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"0\.weight.*\(8, 6\).*\(9, 6\)|0\.weight.*\(9, 6\).*\(8, 6\)"):
        run(toy(width=9), tmp_path / "run", resume="auto")


def test_auto_passes_over_a_damaged_checkpoint_and_says_so(toy, tmp_path, read):
    run(toy(interrupt_at=9), tmp_path / "run", checkpoint_every="4")
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-10])
    record = run(toy(), tmp_path / "run", resume="auto")
    assert record.resumed_from is not None and record.resumed_from < 9
    resumed = [event for event in read(tmp_path / "run").events if event["event"] == "resumed"]
    assert newest.name in resumed[-1]["message"]


def test_the_users_exception_comes_back_as_the_cause(toy, tmp_path):
    with pytest.raises(UserCodeError, match="the user's own mistake") as caught:
        run(toy(raise_at=3), tmp_path / "run")
    assert isinstance(caught.value.__cause__, ValueError)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 3, "epochs": 1}, ConfigError, "exclude each other"),
        ({"stepz": 3}, ConfigError, "Did you mean 'steps'"),
        ({"lr": float("nan")}, ConfigError, "lr is nan"),
        ({"lr": -1.0}, ConfigError, "lr is -1"),
        ({"batch_size": 1000}, (ConfigError, TaskError), "1000"),
        ({"micro_batch_size": 64}, ConfigError, "larger than batch_size"),
        ({"checkpoint_every": "soon"}, ConfigError, "checkpoint_every"),
        ({"init_scale": 0.0}, ConfigError, "init_scale"),
        ({"schedule": "cosin"}, ConfigError, "Did you mean 'cosine'"),
        ({"device": "cudda"}, ConfigError, "cudda"),
        ({"track": ["wandbb"]}, ConfigError, "wandbb"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(toy, tmp_path, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        run(toy(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_exists_is_refused(toy, tmp_path):
    run(toy(), tmp_path / "run", steps=2)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(RunFolderError, match="exists already"):
        run(toy(), tmp_path / "run", steps=2)
    assert before == sorted(path.name for path in (tmp_path / "run").iterdir())


def test_epochs_count_short_last_batches(toy, tmp_path):
    record = run(toy(), tmp_path / "run", epochs=2)
    assert record.steps.attempted == 10  # 96 samples in batches of 20, twice


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from ampguard.tasks import find_task
from ampguard.training import train
task = find_task(sys.argv[1] + ":build")(width=4000)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
record = train(task, out=sys.argv[2], precision="fp32", steps=6, checkpoint_every="2", log_every=1)
assert record.status == "finished"
"""


def test_training_goes_on_when_the_disk_is_full(tmp_path):
    toy = Path(__file__).with_name("toy_task.py")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(toy), str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "checkpoint_failed"][:2] == [2, 4]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
