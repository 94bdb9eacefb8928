"""Time passes of the real model in several precisions, within a budget.

How it works: one untimed pass pays what the process pays once (memory, the math library's start). One pass in each
precision pays what that precision pays once, and tells how long a round takes. Then rounds of one pass each,
interleaved, so that a machine that slows down slows them all; the figure is the median. Where not one round fits in
what is left of the budget, the first passes are the figures: like is compared with like, and nothing slow runs again.

Left out: intervals and verdicts (benchmarking), and restoring what a pass changes (the caller's).
"""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch

MAX_ROUNDS = 20
"""More rounds would not move a median of two candidates that differ enough to matter."""


def time_passes(
    run: Callable[[str], None],
    candidates: Sequence[str],
    *,
    budget_s: float = 2.0,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Return the median seconds of one pass in each precision.

    Args:
        run: One forward-backward pass in the precision that it is given.
        candidates: Precisions to compare; the first also takes the untimed pass.
        budget_s: Seconds for everything; no round starts that is not expected to end in time. Only the first passes,
            which always run, can pass it by themselves.
        clock: Returns seconds, monotone.

    Sync: one per pass, where there is an accelerator.
    """

    def timed(precision: str) -> float:
        start = clock()
        run(precision)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return clock() - start

    begin = clock()
    for precision in candidates[:1]:
        timed(precision)
    rounds = [{precision: timed(precision) for precision in candidates}]
    # The first passes are the figures only where no round follows them: they paid for more than themselves.
    while len(rounds) <= MAX_ROUNDS and clock() - begin + min(sum(taken.values()) for taken in rounds) <= budget_s:
        rounds.append({precision: timed(precision) for precision in candidates})
    counted = rounds[1:] or rounds
    return {precision: median(taken[precision] for taken in counted) for precision in candidates}
