"""`ampguard tune` as a command: what it prints, what it leaves, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TINY = f"{Path(__file__).parents[1] / 'tuning' / 'tune_task.py'}:build"
FAST = ("--space", "lr=log:0.001:0.5", "--threads", "1", "--out", "study")

CONTRACT = {
    "schema", "task", "metric", "direction", "trials", "best", "default_value", "importance", "study_dir",
}  # fmt: skip
"""Fields that the design promises."""

OURS = {
    "status", "verdict", "best_config", "command", "resume_command", "space", "settings", "lost", "warnings", "wall_s",
}  # fmt: skip
"""Fields beside them, as docs/design.md lists them."""

TRIAL = {
    "number", "state", "reason", "params", "value", "run_dir", "is_default", "wall_s", "intermediate",
}  # fmt: skip


@pytest.fixture
def searched(cli):
    def call(*flags, code=0):
        found, out, err = cli("tune", TINY, *FAST, *flags, "--format", "json")
        assert found == code, err
        return json.loads(out)

    return call


def test_the_json_has_every_field_of_the_contract(searched):
    report = searched("--trials", "3")
    assert set(report) == CONTRACT | OURS
    assert (report["schema"], report["task"], report["metric"], report["direction"]) == (
        1,
        "tiny",
        "val/loss",
        "minimize",
    )
    assert len(report["trials"]) == 3
    for trial in report["trials"]:
        assert set(trial) == TRIAL
        assert trial["state"] in ("complete", "pruned", "failed")
        assert Path(trial["run_dir"], "run.json").exists()
    assert report["best"] in report["trials"]
    assert report["default_value"] == report["trials"][0]["value"]
    assert set(report["importance"]) == {"method", "values", "reason"}
    assert report["study_dir"] == "study"
    assert report == json.loads(Path("study/study.json").read_text())


def test_the_best_configuration_trains_to_the_reported_value_exactly(searched, cli):
    report = searched("--trials", "5", "--space", "batch_size=4:16", "--task.width", "6")
    code, out, _ = cli("train", TINY, "--config", report["best_config"], "--out", "again", "--format", "json")
    assert code == 0
    assert json.loads(out)["final"]["val/loss"] == report["best"]["value"]
    assert report["command"] == f"ampguard train {TINY} --config study/best.toml"


def test_no_complete_trial_is_exit_1(searched):
    report = searched("--trials", "2", "--task.oom-above", "0", code=1)
    assert report["best"] is None
    assert report["verdict"] == "no trial is complete: there is no best."
    assert all("out of memory" in trial["reason"] for trial in report["trials"])


def test_people_get_tables_and_a_verdict(cli):
    code, out, err = cli("tune", TINY, *FAST, "--trials", "3")
    assert code == 0
    assert "tiny: val/loss, minimized; 3 complete" in out
    assert "default, complete" in out
    assert "importance" in out
    assert "is best, val/loss" in out
    assert "train it: ampguard train" in out
    assert err.count("complete") == 3


def test_quiet_says_nothing(cli):
    assert cli("tune", TINY, *FAST, "--trials", "1", "--quiet") == (0, "", "")


def test_the_space_may_stand_in_a_file(searched):
    Path("space.toml").write_text(
        '[space]\nlr = "log:0.01:0.1"\nschedule = ["cosine", "linear"]\n"task.width" = [2, 4]\n'
    )
    report = searched("--trials", "2", "--space-file", "space.toml", code=2)
    assert "twice" in report["error"]["message"]
    Path("space.toml").write_text('[space]\nschedule = ["cosine", "linear"]\n"task.width" = [2, 4]\n')
    report = searched("--trials", "2", "--space-file", "space.toml")
    assert report["space"] == ["schedule=cosine,linear", "task.width=2,4", "lr=log:0.001:0.5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[spaces]\n", "has no table"), ("[space\n", "is no TOML"), (None, "cannot be read")],
)
def test_a_space_file_that_cannot_be_read_says_why(searched, text, message):
    if text is not None:
        Path("space.toml").write_text(text)
    report = searched("--space-file", "space.toml", code=2)
    assert message in report["error"]["message"]


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (("--space", "wramup_steps=0:9"), "'wramup_steps', which is unknown", "Did you mean 'warmup_steps'?"),
        (("--space", "ema=0.9:0.1"), "low 0.9 is above high 0.1", "Give the lower one first."),
        (("--space", "max_grad_norm=log:0:1"), "a log scale cannot reach 0", "Begin above 0, or leave out log."),
        (("--space", "weight_decay=0:1"), "ignores what is searched", "Leave it out of the space."),
        (("--trials", "0"), "trials is 0", ""),
        (("--metric", "val/lss"), "val/lss", "Did you mean 'val/loss'?"),
        (("--resume",), "holds no study", "Begin one without --resume."),
    ],
)
def test_wrong_input_is_told_before_anything_is_written(searched, flags, message, hint):
    error = searched(*flags, code=2)["error"]
    assert message in error["message"]
    assert error["hint"] == hint
    assert not Path("study").exists()


def test_an_unwritable_study_folder_is_told(cli):
    Path("file").touch()
    code, out, _ = cli("tune", TINY, "--space", "lr=0.1:1", "--out", "file/study", "--format", "json")
    assert code == 2
    assert json.loads(out)["error"]["kind"] == "run_folder"


@pytest.mark.parametrize("missing", ["optuna", "torch"])
def test_a_missing_package_is_told_with_the_line_that_installs_it(tmp_path, missing):
    extra = {"optuna": "tune", "torch": "train"}[missing]
    script = (
        f"import sys; sys.modules[{missing!r}] = None\nfrom ampguard.cli.main import main\n"
        f"main(['tune', 'digits' if {missing!r} == 'torch' else {TINY!r}, '--out', 'study', '--format', 'json'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["hint"] == f'Install it: pip install "ampguard[{extra}]"'
    assert missing in error["message"]
    assert list(tmp_path.iterdir()) == []


def test_the_function_says_the_same_where_optuna_is_missing(tmp_path):
    script = (
        "import sys; sys.modules['optuna'] = None\nimport ampguard\nfrom ampguard.tasks import find_task\n"
        f"ampguard.tune(build=find_task({TINY!r}), out='study', space='lr=0.1:1')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'pip install "ampguard[tune]"' in done.stderr
    assert list(tmp_path.iterdir()) == []
