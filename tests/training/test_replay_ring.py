import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from ampguard.checkpointing import capture_rng
from ampguard.errors import TaskError
from ampguard.health.batch_tree import same
from ampguard.tasks import find_task
from ampguard.training.data import open_train_data
from ampguard.training.replay_ring import MOST_STEPS, ReplayRing

TASK = Path(__file__).with_name("replay_task.py")
CPU = torch.device("cpu")


def ringed(kind="samples", workers=0, steps=4, seed=3):
    """Read an epoch as a run does; return (ring, batches, what reads on)."""
    data = open_train_data(find_task(f"{TASK}:build")(kind=kind), batch_size=16, seed=seed, workers=workers)
    ring, seen, reader = ReplayRing(steps, data, CPU), [], data.batches(0)
    for position in range(4):
        seen.append(next(reader))
        ring.note(position + 1, 0, position)
    return ring, seen, reader


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_rebuilt_bit_by_bit_and_nobody_is_disturbed(workers):
    ring, seen, reader = ringed(workers=workers)
    _, expected, other = ringed(workers=workers)
    before = capture_rng()["torch"]
    for step in (3, 1, 4):
        assert same(ring.rebuild(step), seen[step - 1])
    assert torch.equal(capture_rng()["torch"], before)
    assert same(seen, expected) and same(list(reader), list(other))


def test_a_batch_of_a_list_is_rebuilt():
    ring, seen, _ = ringed("list")
    assert same(ring.rebuild(2), seen[1])


@pytest.mark.parametrize("kind", ["stream", "stateful"])
def test_a_stream_says_that_it_cannot_and_is_not_disturbed(kind):
    ring, _, reader = ringed(kind)
    _, _, other = ringed(kind)
    with pytest.raises(TaskError, match="read in order"):
        ring.rebuild(2)
    assert same(list(reader), list(other))


def test_a_step_that_is_too_long_ago_is_not_there():
    ring, _, _ = ringed(steps=2)
    assert ring.attempt(2) is None and ring.attempt(3).position == 2
    with pytest.raises(LookupError, match="step 2 is not among the last 2"):
        ring.rebuild(2)


def test_the_ring_has_an_end_whatever_the_streak():
    data = open_train_data(find_task(f"{TASK}:build")(), batch_size=16, seed=0)
    ring = ReplayRing(10**9, data, CPU)
    for step in range(MOST_STEPS + 3):
        ring.note(step, 0, 0)
    assert ring.attempt(2) is None and ring.attempt(3) is not None


def test_equal_states_of_the_host_are_kept_once():
    data = open_train_data(find_task(f"{TASK}:build")(), batch_size=16, seed=0)
    ring = ReplayRing(3, data, CPU)
    for step in (1, 2):
        ring.note(step, 0, 0)
    assert ring.attempt(1).rng.python is ring.attempt(2).rng.python
    assert "numpy" in sys.modules and ring.attempt(1).rng.numpy is ring.attempt(2).rng.numpy


def test_the_indices_of_a_batch_are_those_that_it_was_made_of():
    images = torch.arange(96.0)
    task = find_task(f"{TASK}:build")()
    data = open_train_data(
        type(task)(name="x", model=task.model, loss=task.loss, train_data=TensorDataset(images)),
        batch_size=16,
        seed=5,
    )
    for position, (batch,) in enumerate(data.batches(1)):
        assert batch.long().tolist() == data.indices(1, position)
