import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from ampguard import Task, train
from ampguard.checkpointing import capture_rng
from ampguard.errors import TaskError
from ampguard.precision import Decision
from ampguard.tasks import find_task
from ampguard.training.callbacks import Callbacks
from ampguard.training.config import make_config
from ampguard.training.data import open_train_data
from ampguard.training.preempt import StopFlag
from ampguard.training.progress import NullProgress
from ampguard.training.replayed_locate import ReplayedLocate
from ampguard.training.run import Run

TASK = Path(__file__).with_name("replay_task.py")


@contextmanager
def loop_of(tmp_path, name, precision="fp32", workers=0, micro=None, **task_options):
    task = find_task(f"{TASK}:build")(**task_options)
    options = {"out": tmp_path / name, "device": "cpu", "workers": workers, "init_scale": 1.0, "ema": 0.9}
    run = Run(
        task,
        {"name": task.name},
        make_config({**options, "on_unsupported": "emulate", "micro_batch_size": micro}, task),
        progress=NullProgress(),
        callbacks=Callbacks(()),
        stop=StopFlag(),
        decision=Decision(requested=precision, granted=precision, reason="for a test"),
    )
    with run.built() as (_, loop):
        loop.parts.model.train()
        yield loop


def locate(loop, step, **options):
    seen = ReplayedLocate(loop.task, loop.parts.guard, loop.parts.recorder.ring, loop.config.micro_batch_size)
    return seen(step, **options)


def step_of(loop, sample):
    return 1 + next(at for at in range(6) if sample in loop.parts.data.indices(0, at))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed"])
def test_the_run_goes_on_bit_by_bit_after_a_second_look(tmp_path, precision, workers):
    with loop_of(tmp_path, "seen", precision, workers, zero=7) as loop:
        step = step_of(loop, 7)
        loop.advance(step)
        gradients = [p.grad for p in loop.parts.model.parameters()]
        with torch.no_grad():
            # An earlier step, too: its generators stand elsewhere than those of the run.
            assert step > 1 and locate(loop, 1).finding is None
            seen = locate(loop, step)
            assert locate(loop, 1).finding is None
        assert seen.exact and seen.finding.fqn == "loss" and seen.finding.phase == "backward"
        assert all(p.grad is g for p, g in zip(loop.parts.model.parameters(), gradients, strict=True))
        loop.advance(12)
        after, rng = loop._collect(), capture_rng()
    with loop_of(tmp_path, "bare", precision, workers, zero=7) as loop:
        loop.advance(step)
        loop.advance(12)
        bare = loop._collect()
        assert torch.equal(capture_rng()["torch"], rng["torch"])
    for name, value in bare["model"].items():
        assert torch.equal(after["model"][name], value), name
    assert all(torch.equal(after["guard"]["ema"][name], value) for name, value in bare["guard"]["ema"].items())
    assert after["guard"]["tally"] == bare["guard"]["tally"] and after["guard"]["scale"] == bare["guard"]["scale"]


def test_it_says_where_the_weights_are_not_those_of_the_step(tmp_path):
    with loop_of(tmp_path, "run", bad=7) as loop:
        step = step_of(loop, 7)
        loop.advance(step + 1)
        seen = locate(loop, step)
        assert seen.finding.phase == "data" and not seen.exact
        assert locate(loop, step + 1).finding is None


def test_an_overflow_is_found_in_micro_batches(tmp_path):
    with loop_of(tmp_path, "run", "fp16-mixed", micro=8, large=7) as loop:
        step = step_of(loop, 7)
        loop.advance(step)
        seen = locate(loop, step, loss_scale=1.0)
        assert seen.exact and seen.finding.fqn == "product" and seen.finding.dtype == "float16"


def test_data_that_cannot_be_read_again_is_an_error_and_nothing_moves(tmp_path):
    with loop_of(tmp_path, "run", kind="stream", bad=7) as loop:
        loop.advance(2)
        with pytest.raises(TaskError, match="read in order"):
            locate(loop, 1)
        loop.advance(4)


class Spoiled(torch.utils.data.Dataset):
    """Four batches of four; the samples in `bad` hold a NaN."""

    def __init__(self):
        self.bad = set()
        self.x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.full((4,), float("nan")) if index in self.bad else self.x[index]


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_streak_that_is_over_is_explained_from_its_own_batch(tmp_path, log_every):
    """Batches 2 and 3 are bad and 4 is not: what follows the collapse shows nothing."""
    data = Spoiled()
    task = Task(
        name="spoiled", model=lambda: nn.Linear(4, 2), loss=lambda model, x: model(x).square().mean(), train_data=data
    )
    places = open_train_data(task, batch_size=4, seed=0)
    data.bad = {places.indices(0, 1)[0], places.indices(0, 2)[0]}
    options = {"steps": 4, "batch_size": 4, "precision": "fp32", "max_skip_streak": 1, "log_every": log_every}
    record = train(task, out=tmp_path / "run", on_collapse="raise", **options)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (seen,) = [event for event in events if event.get("replayed")]
    assert (seen["step"], seen["phase"], seen["exact"]) == (3, "data", log_every == 1)
    assert record.status == "finished" and record.steps.skipped == 2


def test_data_that_cannot_be_read_again_leave_the_run_as_it_was(tmp_path):
    batches = [torch.full((4, 4), float("nan")) if at in (1, 2) else torch.ones(4, 4) for at in range(4)]
    task = Task(
        name="stream", model=lambda: nn.Linear(4, 2), loss=lambda model, x: model(x).square().mean(),
        train_data=iter_again(batches),
    )  # fmt: skip
    record = train(task, out=tmp_path / "run", steps=4, precision="fp32", max_skip_streak=1, log_every=1)
    assert record.status == "finished" and record.steps.skipped == 2
    assert "replayed" not in (tmp_path / "run" / "events.jsonl").read_text()


class iter_again:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)
