import json
import tomllib
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from ampguard import tune
from ampguard.errors import ConfigError, RunFolderError


def test_trial_0_is_the_default_and_is_told_apart(search):
    report = search(trials=3)
    assert report.trials[0].params == {"lr": 0.02}
    assert [trial.is_default for trial in report.trials] == [True, False, False]
    assert report.default_value == report.trials[0].value
    assert report.best is not None
    assert report.best.value == min(trial.value for trial in report.trials)


def test_the_default_is_best_where_nothing_beats_it(search):
    report = search(trials=3, space=("lr=log:1e-6:0.02",))
    assert report.best is report.trials[0]
    assert report.verdict.startswith("the default is best")


def test_what_beats_the_default_is_best(search):
    report = search(trials=3, space=("lr=log:0.02:0.1",))
    assert report.best.number > 0
    assert report.best.value < report.default_value
    assert f"trial {report.best.number} is best" in report.verdict


def test_a_higher_metric_is_better_where_one_says_so(search):
    report = search(trials=3, direction="maximize", pruner="none")
    assert report.best.value == max(trial.value for trial in report.trials)


def test_a_search_with_one_worker_can_be_repeated(search):
    space = ("lr=log:0.001:0.5", "batch_size=4:16", "schedule=cosine,linear")
    first, second = (search(out=name, trials=4, steps=2, space=space) for name in ("one", "two"))
    assert [(trial.params, trial.value) for trial in first.trials] == [
        (trial.params, trial.value) for trial in second.trials
    ]


@pytest.mark.parametrize(("fault", "reason"), [("oom_above", "out of memory: planted"), ("inf_above", "no gradient")])
def test_a_trial_that_fails_says_why_and_the_search_goes_on(search, fault, reason):
    report = search(trials=8, task_options={fault: 0.03})
    failed = [trial for trial in report.trials if trial.state == "failed"]
    assert failed
    assert all(reason in trial.reason and trial.value is None for trial in failed)
    assert all(trial.params["lr"] > 0.03 for trial in failed)
    assert len(report.trials) == 8
    assert report.best.params["lr"] <= 0.03


def test_every_trial_may_fail(search):
    report = search(trials=3, task_options={"oom_above": 0.0})
    assert report.counts() == {"complete": 0, "pruned": 0, "failed": 3}
    assert (report.best, report.default_value, report.best_config, report.command) == (None, None, None, None)
    assert report.verdict == "no trial is complete: there is no best."
    assert report.importance.values is None
    assert "0; it takes 2" in report.importance.reason


def test_the_default_may_fail(search):
    report = search(trials=4, task_options={"oom_above": 0.01}, space=("lr=log:0.001:0.03",))
    assert report.trials[0].state == "failed"
    assert report.default_value is None
    assert "the default configuration did not finish" in report.verdict


def test_a_bad_trial_is_pruned_by_its_validations(search):
    report = search(trials=12, steps=10, space=("lr=log:1e-7:0.1",), pruner="median")
    pruned = [trial for trial in report.trials if trial.state == "pruned"]
    assert pruned
    assert all(len(trial.intermediate) < 5 and trial.value is not None and trial.reason for trial in pruned)


def test_options_of_the_task_are_searched(search):
    report = search(trials=3, space=("task.width=2,4,8",))
    assert report.trials[0].params == {"task.width": 4}
    best = tomllib.loads(report_path(report, "best.toml").read_text())
    assert best["task"]["width"] == report.best.params["task.width"]


def test_every_trial_is_a_run_folder_without_a_report(search, tmp_path):
    report = search(trials=2)
    for trial in report.trials:
        files = {path.name for path in (tmp_path / "study" / "trials" / f"{trial.number:04d}").iterdir()}
        assert {"run.toml", "run.json", "metrics.jsonl"} <= files
        assert "report.html" not in files


def test_a_trial_has_a_report_where_one_asks_for_it(search, tmp_path):
    search(trials=1, trial_reports=True)
    assert (tmp_path / "study" / "trials" / "0000" / "report.html").exists()


def test_the_files_say_what_is_returned(search):
    report = search(trials=2)
    assert json.loads(report_path(report, "study.json").read_text()) == json.loads(json.dumps(report.as_dict()))
    assert tomllib.loads(report_path(report, "study.toml").read_text())["config"]["space"] == ["lr=log:0.001:0.5"]


def test_a_folder_that_holds_something_is_left_alone(search, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="exists already"):
        search(trials=1)
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(search, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        search(out="file/study", trials=1)


def test_no_further_trial_begins_after_the_timeout(search):
    report = search(trials=100, timeout="1s", task_options={"pause_s": 0.3})
    assert 1 <= len(report.trials) < 10
    assert report.status == "finished"


def test_any_optuna_storage_will_do(search, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    report = search(trials=2, storage=url)
    assert len(report.trials) == 2
    assert not (tmp_path / "study" / "journal.log").exists()
    assert optuna.get_all_study_names(url) == ["study"]


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:////no/such/folder/x.db", "nodb://x/y"])
def test_a_storage_that_cannot_be_used_is_refused(search, storage):
    with pytest.raises(RunFolderError, match="cannot be used"):
        search(trials=1, storage=storage)


def test_two_studies_of_one_name_do_not_mix(search, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    search(out="a/study", trials=1, storage=url)
    with pytest.raises(ConfigError, match="with another space"):
        search(out="b/study", trials=1, storage=url, space=("lr=log:0.001:0.9",))
    with pytest.raises(RunFolderError, match="holds a study 'study' already"):
        search(out="c/study", trials=1, storage=url)


def report_path(report, name):
    return Path(report.study_dir) / name


def test_a_task_of_epochs_is_searched_and_pruned_by_its_share_of_the_run(tiny, tmp_path):
    task = tiny()
    task = replace(task, defaults={"epochs": 2, "lr": 0.02, "batch_size": 12, "precision": "fp32"})
    report = tune(task, trials=3, space=("batch_size=4:24",), out=tmp_path / "study", threads=1, pruner="none")
    assert report.trials[0].params == {"batch_size": 12}
    assert [len(trial.intermediate) for trial in report.trials] == [4, *(_validations(t) for t in report.trials[1:])]
    assert report.command is None
    assert report.best_config is not None


def _validations(trial):
    steps = 2 * -(-48 // trial.params["batch_size"])
    return -(-steps // max(1, -(-steps // 5)))


def test_half_of_the_trials_may_fail(search):
    report = search(trials=8, space=("lr=0.01,0.02,0.5,0.6",), task_options={"oom_above": 0.1}, steps=2)
    counts = report.counts()
    assert counts["failed"] >= 2
    assert counts["complete"] + counts["pruned"] >= 2
    assert sum(counts.values()) == 8
    assert report.best.params["lr"] < 0.1
