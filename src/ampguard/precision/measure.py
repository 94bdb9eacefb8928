"""Time passes of the real model in several precisions, within a budget.

How it works: one untimed pass pays what the process pays once (memory, the math library's start). One pass in each
precision pays what that precision pays once, and tells how long a round takes. Then rounds of one pass each,
interleaved, so that a machine that slows down slows them all; the figure is the median. Where not one round fits in
what is left of the budget, the first passes are the figures: like is compared with like, and nothing slow runs again.

`time_passes` gives the medians, `time_rounds` each pass.

Left out: intervals and verdicts (benchmarking), and restoring what a pass changes (the caller's).
"""

from collections.abc import Callable, Hashable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)

MAX_ROUNDS = 20
"""More rounds would not move a median of two candidates that differ enough to matter."""


def time_passes(
    run: Callable[[Key], object],
    candidates: Sequence[Key],
    *,
    budget_s: float = 2.0,
    clock: Callable[[], float] = perf_counter,
) -> dict[Key, float]:
    """Return the median seconds of one pass of each candidate; the arguments are those of `time_rounds`."""
    rounds = time_rounds(run, candidates, budget_s=budget_s, clock=clock)
    return {candidate: median(seconds) for candidate, seconds in rounds.items()}


def time_rounds(
    run: Callable[[Key], object],
    candidates: Sequence[Key],
    *,
    budget_s: float = 2.0,
    clock: Callable[[], float] = perf_counter,
    device: torch.device | None = None,
) -> dict[Key, list[float]]:
    """Return the seconds of each pass that counts, in the order of the rounds.

    Args:
        run: One pass of what it is given, for example forward and backward in a precision.
        candidates: What to compare, such as precisions; the first also takes the untimed pass.
        budget_s: Seconds for everything; no round starts that is not expected to end in time. Only the first passes,
            which always run, can pass it by themselves.
        clock: Returns seconds, monotone.
        device: Where the passes run; None: the current accelerator, if there is one.

    Sync: one per pass, where there is an accelerator.
    """
    waits = torch.accelerator.is_available() and (device is None or device.type != "cpu")

    def timed(candidate: Key) -> float:
        start = clock()
        run(candidate)
        if waits:
            torch.accelerator.synchronize(device)
        return clock() - start

    begin = clock()
    for candidate in candidates[:1]:
        timed(candidate)
    rounds = [{candidate: timed(candidate) for candidate in candidates}]
    # The first passes are the figures only where no round follows them: they paid for more than themselves.
    while len(rounds) <= MAX_ROUNDS and clock() - begin + min(sum(taken.values()) for taken in rounds) <= budget_s:
        rounds.append({candidate: timed(candidate) for candidate in candidates})
    counted = rounds[1:] or rounds
    return {candidate: [taken[candidate] for taken in counted] for candidate in candidates}
