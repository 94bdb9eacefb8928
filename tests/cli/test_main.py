import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

TOY = Path(__file__).parents[1] / "training" / "toy_task.py"


def test_train_prints_the_record_alone_on_stdout(cli):
    code, out, err = cli("train", f"{TOY}:build", "--steps", 4, "--task.width", 4, "--format", "json", "--out", "r")
    assert code == 0
    assert json.loads(out)["status"] == "finished"
    assert "step 4/4" in err


def test_the_summary_names_precision_losses_folder_and_the_next_command(cli):
    code, out, _ = cli("train", f"{TOY}:build", "--steps", 4, "--out", "r", "--quiet", "--format", "text")
    assert code == 0 and out == ""
    code, out, _ = cli("train", f"{TOY}:build", "--steps", 4, "--task.width", 4, "--out", "r2")
    for words in ("precision", "fp32", "val/loss", "r2", f"ampguard train {TOY}:build --task.width 4 --precision"):
        assert words in out


@pytest.mark.parametrize(
    ("tokens", "code", "words"),
    [
        (("train", "--precision", "bf17"), 2, "Did you mean"),
        (("train", "digitz"), 2, "Did you mean 'digits'"),
        (("train", "--stepz", "3"), 2, "--steps"),
        (("train", "--lr", "-1"), 2, "lr is -1.0"),
        (("train", "nowhere.py:build"), 2, "nowhere.py"),
        (("train", f"{TOY}:bild"), 2, "bild"),
        (("train", f"{TOY}:build", "--task.with", "3"), 2, "--task.width"),
        (("train", "--resume", "nowhere"), 2, "nowhere"),
        (("train", "--config", "nowhere.toml"), 2, "nowhere.toml"),
        (("doctro",), 2, "doctor"),
        (("train", "digits", "--precision", "fp16", "--on-unsupported", "error", "--device", "cpu"), 2, "fp16-mixed"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(cli, tokens, code, words):
    got, out, err = cli(*tokens, "--format", "json") if tokens[0] != "doctro" else cli(*tokens)
    assert got == code
    assert words in err and "Traceback" not in err
    if tokens[0] != "doctro":
        assert json.loads(out)["status"] == "error"
    assert not Path("runs").exists()


def test_the_users_frames_are_shown_and_ours_are_not(cli):
    code, out, err = cli("train", f"{TOY}:build", "--task.raise-at", 3, "--precision", "fp32", "--format", "json")
    assert code == 3 and json.loads(out)["error"]["kind"] == "user_code"
    assert "toy_task.py" in err and "loop.py" not in err
    _, _, err = cli("train", f"{TOY}:build", "--task.raise-at", 3, "--precision", "fp32", "--debug")
    assert "loop.py" in err


def test_a_config_file_holds_any_flag_and_flags_go_before_it(cli, tmp_path):
    (tmp_path / "c.toml").write_text('steps = 3\nlr = 0.5\nprecision = "fp32"\n[task]\nwidth = 5\n')
    code, out, _ = cli("train", f"{TOY}:build", "--config", "c.toml", "--steps", 2, "--format", "json", "--out", "r")
    assert code == 0 and json.loads(out)["steps"]["attempted"] == 2
    assert "lr = 0.5" in Path("r/run.toml").read_text() and "width = 5" in Path("r/run.toml").read_text()
    (tmp_path / "bad.toml").write_text("stepz = 3\n")
    code, _, err = cli("train", f"{TOY}:build", "--config", "bad.toml")
    assert code == 2 and "Did you mean 'steps'" in err


def test_ctrl_c_finishes_the_step_and_names_the_command_that_continues(tmp_path):
    command = [sys.executable, "-m", "ampguard", "train", f"{TOY}:build"]
    child = subprocess.Popen(
        [*command, "--steps", "100000", "--log-every", "50", "--out", "r"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "r" / "metrics.jsonl").exists() and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "ampguard train --resume r" in out
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["status"] == "interrupted"


def test_the_next_command_after_a_resumed_run_names_its_own_task(cli):
    cli("train", f"{TOY}:build", "--steps", 4, "--out", "r", "--quiet")
    code, out, _ = cli("train", "--resume", "r")
    assert code == 0
    assert "toy_task.py:build" in "".join(out.split())


def test_a_flag_that_equals_a_default_goes_before_the_file(cli, tmp_path):
    (tmp_path / "c.toml").write_text("seed = 5\nlog_every = 1\ncompile = true\n[task]\nwidth = 4\n")
    typed = ["--seed=0", "--log-every", 10, "--task.width", 8, "--no-compile"]
    code, _, _ = cli("train", f"{TOY}:build", "--config", "c.toml", "--steps", 2, "--out", "r", "--quiet", *typed)
    facts = tomllib.loads((tmp_path / "r" / "run.toml").read_text())
    assert code == 0
    assert (facts["config"]["seed"], facts["config"]["log_every"], facts["config"]["compile"]) == (0, 10, False)
    assert facts["task"]["options"] == {"width": 8}


def test_what_a_task_prints_does_not_reach_the_answer(cli, tmp_path):
    code = TOY.read_text().replace(
        "        images, labels = batch\n", "        images, labels = batch\n        print('mine')\n"
    )
    (tmp_path / "printing.py").write_text(code)
    status, out, err = cli("train", "printing.py:build", "--steps", 2, "--out", "r", "--format", "json")
    assert status == 0 and json.loads(out)["status"] == "finished"
    assert "mine" in err
