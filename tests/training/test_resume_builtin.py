"""Interrupted in the middle of an epoch and resumed, both built-in Tasks are bitwise the uninterrupted run."""

import os
import signal

import pytest

from ampguard.tasks import find_task
from ampguard.training import train
from ampguard.training.progress import NullProgress

OPTIONS = {
    "digits": {"batch_size": 8},
    "text": {"batch_size": 4, "val_batch_size": 64},
}
BUILD = {"digits": {}, "text": {"context": 32}}


class StopAt(NullProgress):
    """Presses Ctrl-C during the given step."""

    def __init__(self, step):
        self._step = step

    def step(self, step):
        if step == self._step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "fp16-mixed"])
@pytest.mark.parametrize("name", OPTIONS)
def test_interrupted_and_resumed_equals_uninterrupted(name, precision, tmp_path, read, caplog):
    caplog.set_level("ERROR", logger="ampguard")

    def run(folder, **more):
        task = find_task(name)(**BUILD[name])
        common = {
            "precision": precision,
            "on_unsupported": "emulate",
            "steps": 8,
            "log_every": 1,
            "init_scale": 2.0**22,
        }
        return train(task, out=tmp_path / folder, **{**common, **OPTIONS[name], **more})

    run("whole")
    assert run("cut", progress=StopAt(5)).status == "interrupted"
    record = run("cut", resume="auto")
    assert (record.status, record.resumed_from) == ("finished", 5)
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert whole.numbers() == cut.numbers()
    assert all(value.equal(whole.weights[key]) for key, value in cut.weights.items())
