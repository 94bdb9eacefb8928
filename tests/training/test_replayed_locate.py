from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ampguard.checkpointing import capture_rng
from ampguard.errors import TaskError
from ampguard.precision import Decision
from ampguard.tasks import find_task
from ampguard.training.callbacks import Callbacks
from ampguard.training.config import make_config
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
