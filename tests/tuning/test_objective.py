"""One trial without a study: what its run comes to."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ampguard import Sum, Task
from ampguard.tuning.job import Job
from ampguard.tuning.objective import run_trial


def task_of(metric, **changes):
    """A Task whose validations give the values of `metric`, one after the other."""
    data = torch.utils.data.TensorDataset(torch.zeros(8, 2), torch.zeros(8))
    values = iter(metric)
    fields = {"evaluate": lambda model, batch: {"score": Sum(next(values), 1)}, **changes}
    return Task(
        name="scored",
        model=lambda: nn.Linear(2, 1),
        loss=lambda model, batch: model(batch[0]).square().mean(),
        train_data=data,
        val_data=data,
        defaults={"steps": 4, "batch_size": 8, "precision": "fp32", "validate_every": 1},
        **fields,
    )


@pytest.fixture
def trial(tmp_path):
    def call(build, judge=lambda at, value: False, **options):
        fixed = {"report": False, "threads": 1, "monitor": "val/score", "on_collapse": "raise"}
        job = Job(
            folder=tmp_path,
            build=build,
            task_options={},
            options={**fixed, **options},
            origin={},
            metric="val/score",
        )
        return run_trial(job, 3, {}, judge)

    return call


def test_the_value_is_that_of_the_last_validation(trial, tmp_path):
    result = trial(lambda: task_of([4.0, 1.0, 2.0, 3.0]))
    assert (result.state, result.value, result.run_dir) == ("complete", 3.0, str(tmp_path / "trials" / "0003"))


def test_the_judge_is_told_each_validation_and_ends_the_run_there(trial, tmp_path):
    told = []

    def judge(at, value):
        told.append((at, value))
        return at == 2

    result = trial(lambda: task_of([4.0, 1.0, 2.0, 3.0]), judge)
    assert (result.state, result.value) == ("pruned", 1.0)
    assert told == [(1, 4.0), (2, 1.0)]
    assert '"attempted": 2' in (tmp_path / "trials" / "0003" / "run.json").read_text()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_metric_that_goes_non_finite_has_failed_at_once(trial, bad):
    told = []
    result = trial(lambda: task_of([4.0, bad, 1.0, 1.0]), lambda at, value: told.append(at))
    assert (result.state, result.value, result.reason) == ("failed", None, f"val/score went to {bad}")
    assert told == [1]


def test_a_run_that_stops_by_its_own_rule_is_complete(trial):
    result = trial(lambda: task_of([1.0, 2.0, 3.0, 4.0]), early_stop=1)
    assert (result.state, result.value) == ("complete", 2.0)


def test_a_metric_that_is_not_there_says_which_are(trial):
    result = trial(lambda: task_of([1.0], evaluate=lambda model, batch: {"scores": Sum(1.0, 1)}))
    assert result.state == "failed"
    assert "Allowed: val/scores" in result.reason


@pytest.mark.parametrize(("error", "told"), [(ValueError("mine"), "ValueError: mine"), (SystemExit(3), "sys.exit(3)")])
def test_what_the_users_code_raises_is_the_reason(trial, error, told):
    def loss(model, batch):
        raise error

    result = trial(lambda: replace(task_of([1.0]), loss=loss))
    assert result.state == "failed"
    assert told in result.reason


def test_a_build_that_raises_is_the_reason(trial):
    def build():
        raise KeyError("no data here")

    result = trial(build)
    assert result.state == "failed"
    assert "no data here" in result.reason
