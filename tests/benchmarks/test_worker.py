"""The clock of bench-overhead counts whole blocks, whoever owns the loop."""

import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe

import pytest

import worker
from loops import Batches
from subjects import mlp

SIZES = [2, 3, 3]
"""A warm-up and two blocks."""
STEP_S = 0.02


@pytest.fixture
def subject():
    return replace(mlp(), batches=list(range(5)))


@pytest.fixture
def pipe():
    here, there = Pipe()
    for _ in SIZES:
        here.send(None)
    yield here, there
    gc.enable()
    gc.unfreeze()


def ahead(batches: Iterator[int]) -> Iterator[int]:
    """Fetch a batch before the one before it is used, as a prefetching Trainer does."""
    last = next(batches)
    for batch in batches:
        yield last
        last = batch
    yield last


@pytest.mark.parametrize("fetch", [iter, ahead])
def test_each_block_is_timed_over_as_many_steps_as_it_has(subject, pipe, fetch):
    here, there = pipe
    batches = Batches(worker._timed(subject, SIZES, there), sum(SIZES) + 1)
    taken = []
    for batch in fetch(iter(batches)):
        taken.append(batch)
        time.sleep(STEP_S)
    assert taken == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    seconds = [here.recv() for _ in SIZES]
    # A sleep lasts at least as long as asked for: fewer steps would be told apart, more only by a slow machine.
    assert seconds[1] >= 3 * STEP_S
    assert seconds[2] >= 3 * STEP_S
    assert not here.poll()


def test_a_trainer_that_stops_at_its_steps_still_stops_the_clock(subject, pipe):
    here, there = pipe
    batches = Batches(worker._timed(subject, SIZES, there), sum(SIZES) + 1)
    for _ in range(len(batches)):
        next(batches)
    assert all(here.poll() and here.recv() >= 0 for _ in SIZES)


def test_the_collector_is_off_in_a_block_and_on_after_it(subject, pipe):
    batches = worker._timed(subject, SIZES, pipe[1])
    during = [(next(batches), gc.isenabled())[1] for _ in range(sum(SIZES))]
    next(batches)
    assert not any(during)
    assert gc.isenabled()


@pytest.mark.bf16
def test_the_dtype_of_the_model_is_seen():
    subject = replace(mlp(), agreement_steps=2)
    assert worker.trained(subject, ("plain", "fp32")).dtype == "float32"
    assert worker.trained(subject, ("ours", "bf16-mixed")).dtype == "bfloat16"
