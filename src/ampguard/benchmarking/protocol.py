"""In which order things are timed, so that a noisy machine cannot favour one of them.

A *runner* does a block of work and returns how long it took. The protocol warms the runners up, in turn, until the
times of each hold still; then it runs blocks: every runner once a block, in an order drawn anew for each, so that drift
and neighbours fall on all alike and consecutive blocks lose their memory of each other. Nothing here knows torch or a
clock: what a runner returns is what is measured, and so the whole protocol runs on a simulated machine in the tests.
"""

import random
from collections.abc import Callable, Iterable, Mapping
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


def interleave(
    runners: Mapping[str, Runner],
    *,
    blocks: int,
    seed: int,
    time_left: Callable[[], bool] = lambda: True,
    warmup_left: Callable[[], bool] = lambda: True,
    failed: Callable[[str, Exception], None] | None = None,
    told: Callable[[Timings], None] = lambda _: None,
    timings: Timings | None = None,
    unwarmed: frozenset[str] = frozenset(),
) -> Timings:
    """Time the runners block by block.

    Args:
        runners: By name.
        blocks: Blocks to measure, those of `timings` included.
        seed: Of the order within blocks.
        time_left: Asked before each block but the first: whether there is time for it.
        warmup_left: Asked before each block of the warm-up but the first.
        failed: Takes what a runner raised; it is left out from then on. None: the exception passes.
        told: Called after each block.
        timings: Blocks that were measured before an interruption, to go on from; changed in place.
        unwarmed: Runners whose time is too short for a warm-up.

    Returns:
        Times of each runner, those that failed up to the block before. A block counts as a whole or not at all, so an
        exception that passes leaves pairs.
    """
    timings = Timings() if timings is None else timings
    left = dict(runners)

    def run(names: Iterable[str]) -> dict[str, float]:
        """Run a block of each; return the seconds of those that did not fail."""
        found = {}
        for name in names:
            try:
                found[name] = left[name]()
            except Exception as error:
                if failed is None:
                    raise
                failed(name, error)
                del left[name]
        return found

    for name in runners:
        timings.blocks_s.setdefault(name, [])
    timings.warmup_s = {name: [] for name in runners if name not in unwarmed}
    for done in range(WARMUP_BLOCKS):
        cold = [name for name in left if name not in unwarmed and not warmed_up(timings.warmup_s[name])]
        if not cold or (done and not warmup_left()):
            break
        _append(timings.warmup_s, run(cold))
    order, first = random.Random(seed), True
    while left and min(len(timings.blocks_s[name]) for name in left) < blocks and (first or time_left()):
        _append(timings.blocks_s, run(order.sample(sorted(left), len(left))))
        told(timings)
        first = False
    return timings


def _append(series: Mapping[str, list[float]], block: Mapping[str, float]) -> None:
    for name, seconds in block.items():
        series[name].append(seconds)
