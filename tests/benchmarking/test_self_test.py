"""On a simulated clock: time passes in forwards, and in the planted delay, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from ampguard.benchmarking.self_test import self_test
from ampguard.errors import RunError, TaskError


class Clock:
    """Each forward takes a millisecond, more or less; nothing else takes time."""

    def __init__(self, seed, noise):
        self.now, self._noise, self._rng = 0.0, noise, np.random.default_rng(seed)

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds

    def forward(self):
        self.now += 0.001 * float(np.exp(self._rng.normal(0, self._noise)))


def timed(task, clock):
    def model():
        made = task.model()
        # On a module inside, so that copies of the model keep it and the delay is planted beside it.
        made[0].register_forward_pre_hook(lambda *_: clock.forward())
        return made

    return replace(task, model=model)


@pytest.fixture
def tested(build, tmp_path, monkeypatch):
    monkeypatch.setattr("ampguard.benchmarking.contender.MAX_STEPS", 10)

    def call(*, seed=0, noise=0.02, wait=None, model=lambda task: task, **options):
        clock = Clock(seed, noise)
        task = timed(model(build()), clock)
        given = {"parity_steps": 20, "device": "cpu", "out": tmp_path / "test", "blocks": 12, **options}
        return self_test(task, clock=clock, wait=wait or clock.pass_by, **given)

    return call


def test_a_right_bench_passes_and_finds_both_planted_faults(tested):
    found = tested()
    assert [check.passed for check in found.checks] == [True] * 4, found.checks
    assert found.passed
    same, delayed, equal, damaged = found.checks
    assert same.name == "same speed"
    assert delayed.found.startswith("0.83")
    assert equal.found.startswith("equivalent: val/loss +0 ")
    assert damaged.found.startswith("different: val/loss +")
    assert "Expected false alarms: 5 %" in found.note
    values = found.as_dict()
    assert list(values) == ["schema", "status", "expected_false_alarms_pct", "task", "device", "checks", "wall_s"]
    assert values["status"] == "passed"
    assert values["checks"][0].keys() == {"name", "expected", "found", "passed"}


def without_validation(task):
    return replace(task, val_data=None)


def test_a_delay_that_does_not_happen_is_not_found(tested):
    found = tested(wait=lambda _: None, model=without_validation)
    assert [check.passed for check in found.checks[:2]] == [True, False]
    assert not found.passed


def test_a_machine_too_noisy_for_it_says_so(tested):
    found = tested(noise=3.0, model=without_validation)
    assert "a noisy machine: the ratios spread over" in found.checks[0].found


def test_without_validation_data_accuracy_cannot_be_tested_and_fails_with_the_reason(tested):
    found = tested(model=without_validation)
    assert [check.passed for check in found.checks] == [True, True, False, False]
    assert found.checks[2].found == "not measured: the Task has no validation data"


def test_a_task_that_does_not_train_is_an_error(tested):
    def broken(task):
        return replace(task, evaluate=lambda model, batch: {"loss": 1.0})

    with pytest.raises(RunError, match=r"does not train in fp32: .*not a Sum"):
        tested(model=broken)


def test_a_metric_that_the_runs_lack_is_an_error(tested):
    with pytest.raises(TaskError, match="no metric 'val/f1'"):
        tested(metric="val/f1")


def test_the_damage_is_planted_in_the_gradients_alone(build):
    from ampguard.benchmarking.planted import damaged

    model = damaged(build())()
    assert isinstance(model, nn.Sequential)
    task = build()
    images, labels = task.train_data[0]
    task.loss(model, (images[None], labels[None])).backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())
