"""Several processes: what is theirs, and what becomes of a trial whose process dies."""

import json
import logging
import threading

import pytest

from ampguard import tune
from ampguard.errors import RunError, TaskError


def numbers(report):
    return [trial.number for trial in report.trials]


def test_a_killed_workers_trial_is_run_again_and_none_is_lost(search, tmp_path, caplog):
    """One of two workers is killed with -9 in mid-trial."""
    with caplog.at_level(logging.WARNING):
        report = search(trials=6, workers=2, task_options={"kill_once": str(tmp_path / "killed")})
    assert (tmp_path / "killed").exists()
    assert report.status == "finished"
    assert len(report.trials) == 6
    (lost,) = report.lost
    assert lost.reason == "its process ended with signal SIGKILL"
    assert sorted([*numbers(report), lost.number]) == list(range(7))
    again = next(trial for trial in report.trials if trial.number == lost.again_as)
    (stored,) = (trial for trial in _stored(report) if trial["number"] == lost.again_as)
    assert again.state in ("complete", "pruned")
    assert stored["params"] == again.params
    assert "its process ended with signal SIGKILL" in caplog.text
    assert len({trial.run_dir for trial in report.trials}) == 6


def _stored(report):
    from pathlib import Path

    return json.loads((Path(report.study_dir) / "study.json").read_text())["trials"]


def test_a_trial_that_kills_its_worker_each_time_has_failed(search):
    report = search(trials=1, workers=2, task_options={"kill_above": 0.0})
    assert [(trial.number, trial.state) for trial in report.trials] == [(2, "failed")]
    assert report.trials[0].reason == "its process ended with signal SIGKILL, and so 2 times more"
    assert [attempt.number for attempt in report.lost] == [0, 1]
    assert report.best is None


def test_workers_find_what_a_single_process_finds(search):
    one, two = search(out="one", trials=3, pruner="none"), search(out="two", trials=3, pruner="none", workers=2)
    values = {trial.params["lr"]: trial.value for trial in one.trials}
    for trial in two.trials:
        assert values.get(trial.params["lr"], trial.value) == trial.value
    assert two.default_value == one.default_value
    assert numbers(two) == [0, 1, 2]


def test_a_task_that_cannot_be_sent_is_refused(tiny, tmp_path):
    task = tiny()
    object.__setattr__(task, "info", {"lock": threading.Lock()})
    with pytest.raises(TaskError, match="cannot be sent to a worker process"):
        tune(task, trials=2, workers=2, space=("lr=log:0.01:0.1",), out=tmp_path / "study")


class Landmine:
    """Can be sent, and not received."""

    def __init__(self, task):
        self.task = task

    def __call__(self):
        return self.task

    def __reduce__(self):
        return (int, ("no number",))


def test_workers_that_cannot_start_end_the_search(tiny, tmp_path):
    with pytest.raises(RunError, match="a worker process could not start"):
        tune(build=Landmine(tiny()), trials=2, workers=2, space=("lr=log:0.01:0.1",), out=tmp_path / "study", threads=1)
