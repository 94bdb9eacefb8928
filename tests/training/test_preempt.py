"""What asks a run to stop: signals, a deadline, a caller."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ampguard.errors import ConfigError
from ampguard.training import TrainConfig, train
from ampguard.training.preempt import StopFlag

TOY = Path(__file__).with_name("toy_task.py")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_deadline_asks_once_its_time_has_come():
    clock = Clock()
    stop = StopFlag(30.0, clock=clock)
    assert not stop.asked()
    clock.now += 29.9
    assert not stop.asked()
    clock.now += 0.1
    assert stop.asked()
    assert (stop.status, stop.reason) == ("preempted", "max_time of 30 s is over")


def test_the_first_reason_holds():
    stop = StopFlag()
    stop.ask("stopped_early", "one")
    stop.ask("interrupted", "two")
    assert (stop.status, stop.reason) == ("stopped_early", "one")


def test_a_callers_reason_holds_against_a_signal_that_comes_later():
    with StopFlag() as stop:
        stop.ask("stopped_early", "mine")
        os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.status, stop.reason) == ("stopped_early", "mine")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "preempted")])
def test_a_signal_asks_and_the_handlers_are_put_back(number, status):
    before = signal.getsignal(number)
    with StopFlag() as stop:
        os.kill(os.getpid(), number)
        assert stop.asked()
    assert stop.status == status
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("3h50m", 13800), ("1d2h3m4s", 93784), ("10h", 36000)]
)
def test_a_time_is_read_as_people_write_it(text, seconds):
    assert TrainConfig(max_time=text).max_time_s() == seconds


@pytest.mark.parametrize("text", ["", "0s", "90", "1.5h", "h", "5m3h", "-3m", "3 h"])
def test_another_text_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="max_time is") as caught:
        TrainConfig(max_time=text)
    assert "3h50m" in caught.value.hint


def test_a_run_whose_time_is_over_saves_and_continues_to_the_same_end(toy, tmp_path, read, monkeypatch):
    options = {"precision": "fp32", "log_every": 1}
    train(toy(), out=tmp_path / "whole", **options)
    clock = Clock()
    real = StopFlag.__init__
    monkeypatch.setattr(StopFlag, "__init__", lambda self, limit: real(self, limit, clock=clock))

    task = toy()
    inner = task.loss

    def slow(model, batch):
        clock.now += 1
        return inner(model, batch)

    slowed = type(task)(**{**{name: getattr(task, name) for name in task.__dataclass_fields__}, "loss": slow})
    record = train(slowed, out=tmp_path / "cut", max_time="10s", **options)
    assert record.status == "preempted" and 5 <= record.steps.attempted <= 10
    (event,) = (event for event in read(tmp_path / "cut").events if event["event"] == "preempted")
    assert "max_time" in event["message"]
    record = train(toy(), resume=tmp_path / "cut", max_time="10h")
    assert record.status == "finished"
    assert read(tmp_path / "cut").numbers() == read(tmp_path / "whole").numbers()


@pytest.mark.parametrize("ask", ["--max-time", "SIGTERM"])
def test_the_command_exits_with_75_after_a_checkpoint(tmp_path, ask):
    options = ["--steps", "100000000", "--log-every", "5", "--precision", "fp32", "--quiet", "--format", "json"]
    limit = ["--max-time", "1s"] if ask == "--max-time" else []
    out = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-m", "ampguard", "train", f"{TOY}:build", *options, *limit, "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if ask == "SIGTERM":
        while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
            assert child.poll() is None
        child.send_signal(signal.SIGTERM)
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 75
    record = json.loads(text)
    assert record["status"] == "preempted"
    latest = (out / "checkpoints" / "latest").read_text().strip()
    assert latest == f"step-{record['steps']['attempted']:08d}"
