import itertools

import pytest

from ampguard.benchmarking.protocol import WARMUP_BLOCKS, Timings, interleave


def fixed(seconds, calls=None, name=""):
    def run():
        if calls is not None:
            calls.append(name)
        return seconds

    return run


def test_each_block_runs_every_runner_once_in_an_order_drawn_anew():
    calls = []
    runners = {name: fixed(1.0, calls, name) for name in "abc"}
    interleave(runners, blocks=30, seed=0)
    measured = calls[-90:]
    blocks = [tuple(measured[i : i + 3]) for i in range(0, 90, 3)]
    assert all(sorted(block) == ["a", "b", "c"] for block in blocks)
    assert len(set(blocks)) == 6


def test_the_order_is_a_function_of_the_seed():
    def order(seed):
        calls = []
        interleave({name: fixed(1.0, calls, name) for name in "ab"}, blocks=20, seed=seed)
        return calls

    assert order(1) == order(1)
    assert order(1) != order(2)


def warmed(*runners, **options):
    """Return what the warm-up took, runner by runner."""
    names = {str(number): runner for number, runner in enumerate(runners)}
    return list(interleave(names, blocks=0, seed=0, **options).warmup_s.values())


def test_warm_up_ends_when_times_hold_still():
    times = itertools.chain([9.0, 5.0, 3.0, 2.0], itertools.repeat(1.0))
    assert warmed(lambda: next(times)) == [[9.0, 5.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]]


def test_each_runner_is_warmed_up_as_long_as_it_needs_in_turn():
    times, calls = (2.0**-i for i in itertools.count()), []

    def cools():
        calls.append("b")
        return next(times)

    still, cooling = warmed(fixed(1.0, calls, "a"), cools)
    assert (len(still), len(cooling)) == (6, WARMUP_BLOCKS)
    assert calls[:12] == ["a", "b"] * 6


def test_warm_up_runs_once_even_without_time():
    assert warmed(fixed(1.0), fixed(2.0), warmup_left=lambda: False) == [[1.0], [2.0]]


def test_a_runner_without_time_for_a_warm_up_gets_none():
    timings = interleave({"a": fixed(1.0), "b": fixed(2.0)}, blocks=2, seed=0, unwarmed=frozenset("b"))
    assert timings.warmup_s == {"a": [1.0] * 6}
    assert timings.blocks_s == {"a": [1.0] * 2, "b": [2.0] * 2}


def test_one_block_is_measured_even_without_time():
    assert interleave({"a": fixed(1.0)}, blocks=9, seed=0, time_left=lambda: False).blocks_s == {"a": [1.0]}


def test_a_block_that_is_interrupted_does_not_count():
    left = iter(range(17))

    def interrupted():
        if next(left) == 10:
            raise KeyboardInterrupt
        return 2.0

    timings = Timings()
    with pytest.raises(KeyboardInterrupt):
        interleave({"a": fixed(1.0), "b": interrupted}, blocks=9, seed=0, timings=timings)
    assert timings.blocks_s == {"a": [1.0] * 4, "b": [2.0] * 4}


def test_a_runner_that_fails_is_told_of_and_the_others_go_on():
    left, told = iter(range(8)), []

    def fails():
        if next(left) == 7:
            raise MemoryError("no more")
        return 2.0

    timings = interleave(
        {"good": fixed(1.0), "bad": fails}, blocks=5, seed=0, failed=lambda name, error: told.append((name, str(error)))
    )
    assert told == [("bad", "no more")]
    assert timings.blocks_s == {"good": [1.0] * 5, "bad": [2.0]}


def test_a_failure_passes_where_nobody_takes_it():
    def fails():
        raise MemoryError("no more")

    with pytest.raises(MemoryError):
        interleave({"bad": fails}, blocks=5, seed=0)


def test_an_interrupted_measurement_goes_on_where_it_was():
    timings = Timings(blocks_s={"a": [1.0] * 4, "b": [2.0] * 4})
    calls = []
    interleave({"a": fixed(1.0, calls, "a"), "b": fixed(2.0)}, blocks=6, seed=0, timings=timings)
    assert timings.blocks_s == {"a": [1.0] * 6, "b": [2.0] * 6}


def test_no_block_begins_without_time():
    answers = iter([True] * 20 + [False] * 100)
    timings = interleave({"a": fixed(1.0)}, blocks=100, seed=0, time_left=lambda: next(answers))
    assert len(timings.blocks_s["a"]) == 1 + 20
