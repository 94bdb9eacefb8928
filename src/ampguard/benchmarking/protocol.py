"""In which order things are timed, so that a noisy machine cannot favour one of them.

A *runner* does a block of work and returns how long it took. The protocol warms each runner up until its times hold
still, then runs blocks: every runner once a block, in an order drawn anew for each block, so that drift and neighbours
fall on all alike and consecutive blocks lose their memory of each other. Nothing here knows torch or a clock: what a
runner returns is what is measured, which is how the whole protocol runs on a simulated machine in the tests.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

Runner = Callable[[], float]
"""Does a block of work; returns its seconds."""

WINDOW = 3
"""Blocks whose medians are compared to see whether times hold still."""

STILL = 0.05
"""Two medians of consecutive windows this close, relatively: warmed up."""

WARMUP_BLOCKS = 12
"""Warm-up ends here at the latest; a machine that never holds still is measured as it is."""


@dataclass(kw_only=True)
class Timings:
    """What the protocol measured."""

    blocks_s: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each block by runner, in order; the i-th of all runners belong together."""
    warmup_s: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each warm-up block by runner."""


def warmed_up(times: list[float]) -> bool:
    """Return whether times hold still: medians of the last two windows differ by less than 5 %."""
    if len(times) < 2 * WINDOW:
        return False
    before, last = median(times[-2 * WINDOW : -WINDOW]), median(times[-WINDOW:])
    return abs(last - before) <= STILL * before


def warm_up(runner: Runner, *, time_left: Callable[[], bool]) -> list[float]:
    """Run blocks until they hold still, at most 12, and at least one; return their seconds."""
    times = [runner()]
    while len(times) < WARMUP_BLOCKS and not warmed_up(times) and time_left():
        times.append(runner())
    return times


def interleave(
    runners: Mapping[str, Runner],
    *,
    blocks: int,
    seed: int,
    time_left: Callable[[], bool] = lambda: True,
    failed: Callable[[str, Exception], None] | None = None,
    told: Callable[[Timings], None] = lambda _: None,
    timings: Timings | None = None,
) -> Timings:
    """Time the runners block by block.

    Args:
        runners: By name.
        blocks: Blocks to measure, those of `timings` included.
        seed: Of the order within blocks.
        time_left: Asked before each block, and while warming up: whether there is time for more.
        failed: Takes what a runner raised; it is left out from then on. None: the exception passes.
        told: Called after each block.
        timings: Blocks that were measured before an interruption, to go on from.

    Returns:
        Times of each runner, those that failed up to the block before.
    """
    timings = timings or Timings()
    order = random.Random(seed)
    left = dict(runners)

    def attempt(name: str, work: Callable[[Runner], list[float]]) -> list[float]:
        try:
            return work(left[name])
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
            del left[name]
            return []

    for name in runners:
        timings.warmup_s[name] = attempt(name, lambda runner: warm_up(runner, time_left=time_left))
        timings.blocks_s.setdefault(name, [])
    while left and min(len(timings.blocks_s[name]) for name in left) < blocks and time_left():
        for name in order.sample(sorted(left), len(left)):
            timings.blocks_s[name] += attempt(name, lambda runner: [runner()])
        told(timings)
    return timings
