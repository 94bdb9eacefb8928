"""Searches in processes of their own that are interrupted, terminated, or killed, and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ampguard import tune
from ampguard.errors import ConfigError, RunFolderError
from ampguard.tuning.lock import locked
from ampguard.tuning.watch import Watch

TINY = f"{Path(__file__).with_name('tune_task.py')}:build"
DEADLINE_S = 120


def start(folder, *flags):
    command = [sys.executable, "-m", "ampguard", "tune", TINY, "--out", str(folder), "--format", "json", "--quiet"]
    fixed = ["--space", "lr=log:0.001:0.03", "--threads", "1", "--task.pause-s", "0.15"]
    flags = flags if "--trials" in flags else (*flags, "--trials", "4")
    return subprocess.Popen(
        [*command, *fixed, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def resume(folder, *flags):
    process = start(folder, "--resume", *flags)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return json.loads(out)


def wait_for(condition, process):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finished_trials(folder):
    """Return the trials whose result stands in the journal, by their number."""
    journal = folder / "journal.log"
    return journal.read_text().count('"ampguard_result"') if journal.exists() else 0


def rows(folder):
    return sum(1 for _ in folder.glob("trials/*/run.toml"))


@pytest.mark.parametrize(
    ("number", "code", "status"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "preempted")]
)
def test_a_signal_keeps_what_is_finished_and_resume_goes_on(tmp_path, number, code, status):
    folder = tmp_path / "study"
    process = start(folder)
    wait_for(lambda: finished_trials(folder) >= 1 and rows(folder) > finished_trials(folder), process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    report = json.loads(out)
    assert report == json.loads((folder / "study.json").read_text())
    assert report["status"] == status
    assert 1 <= len(report["trials"]) < 4
    assert report["resume_command"] == f"ampguard tune {TINY} --resume --out {folder}"
    if number is signal.SIGINT:
        after = resume(folder)
        assert (after["status"], len(after["trials"])) == ("finished", 4)
        assert after["trials"][: len(report["trials"])] == report["trials"]
        assert [attempt["reason"] for attempt in after["lost"]] == ["it was interrupted"]


def test_a_killed_search_loses_at_most_what_was_running(tmp_path):
    folder = tmp_path / "study"
    process = start(folder, "--workers", "2", "--trials", "6")
    wait_for(lambda: finished_trials(folder) >= 2 and rows(folder) > finished_trials(folder), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    kept = finished_trials(folder)
    after = resume(folder, "--workers", "2", "--trials", "6")
    assert len(after["trials"]) == 6
    assert len({trial["number"] for trial in after["trials"]}) == 6
    assert sum(trial["number"] < kept + 2 for trial in after["trials"]) >= kept
    assert len(after["lost"]) <= 2
    assert {attempt["reason"] for attempt in after["lost"]} <= {"its search was killed"}
    assert finished_trials(folder) == 6


class Interrupting(Watch):
    """Presses Ctrl-C when a trial has ended."""

    def ended(self, record):
        raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_between_trials_keeps_what_is_finished(search, workers):
    options = {"task_options": {"pause_s": 0.1}, "workers": workers, "pruner": "none"}
    report = search(trials=4, watch=Interrupting(), **options)
    assert (report.status, len(report.trials)) == ("interrupted", 1)
    after = search(trials=3, resume=True, **{**options, "workers": 1})
    assert (after.status, len(after.trials)) == ("finished", 3)
    assert {attempt.reason for attempt in after.lost} <= {"it was interrupted"}


def test_a_folder_in_use_is_refused(search, tmp_path):
    (tmp_path / "study").mkdir()
    with locked(tmp_path / "study", 0.0), pytest.raises(RunFolderError, match="in use by another process"):
        search(trials=1)


def test_the_same_options_may_be_given_beside_resume(search):
    search(trials=2)
    report = search(trials=3, resume=True)
    assert [trial.number for trial in report.trials] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": ("lr=log:0.001:0.9",)}, "space is"),
        ({"steps": 3}, "steps is 3 beside resume"),
        ({"seed": 3}, "seed is 3 beside resume"),
        ({"task_options": {"width": 8}}, "task.width is 8 beside resume"),
    ],
)
def test_what_would_make_it_another_study_is_refused(search, changes, message):
    search(trials=1, steps=2)
    with pytest.raises(ConfigError, match=message):
        search(trials=2, resume=True, **changes)


def test_resume_takes_over_what_is_not_given_again(search, tmp_path):
    search(trials=1, steps=2, space=("lr=log:0.001:0.9",), task_options={"width": 8})
    report = search(trials=2, resume=True, space=None, threads=None)
    assert report.space == ("lr=log:0.001:0.9",)
    assert report.settings["steps"] == 2
    config = (tmp_path / "study" / "trials" / "0001" / "run.toml").read_text()
    assert "width = 8" in config


def test_resume_without_a_study_is_refused(search, tmp_path):
    with pytest.raises(RunFolderError, match="holds no study"):
        search(trials=1, resume=True)
    assert not (tmp_path / "study").exists()


def test_a_study_of_another_task_is_refused(search, tiny, tmp_path):
    options = {"trials": 1, "steps": 1, "space": ("lr=log:0.01:0.1",), "out": tmp_path / "study", "threads": 1}
    tune(tiny(), **options)
    with pytest.raises(RunFolderError, match="of the Task 'tiny', not of 'other'"):
        tune(replace(tiny(), name="other"), resume=True, **options)
    with pytest.raises(ConfigError, match="given in Python"):
        search(trials=1, resume=True, steps=1)
