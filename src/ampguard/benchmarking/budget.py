"""How the time is spent: speed first, then memory, then as many seeds and steps of parity as fit."""

from dataclasses import dataclass

from ampguard.benchmarking.equivalence import MIN_SEEDS

SPEED_SHARE, MEMORY_SHARE, LARGEST_SHARE = 0.3, 0.15, 0.15
"""Shares of the budget that speed, memory and the largest micro-batch may use; parity has what is left."""

MIN_STEPS = 20
"""Parity over fewer optimizer steps says nothing: the first losses are alike in any precision."""

SAFETY = 0.85
"""Share of the estimate that is planned for: a run has more to do than steps."""

RUN_OVERHEAD_S = 0.5
"""Seconds that a parity run takes beside its steps and its validation: model, folder, checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What parity will do."""

    seeds: int
    steps: int
    reason: str = ""
    """Why there is none, or why it is less than asked; "" where it is all of it."""


def plan_parity(
    *,
    seconds: float,
    step_s: float,
    evaluation_s: float,
    runs_per_seed: int,
    seeds: int,
    steps: int,
    fixed: bool,
    finished: int = 0,
) -> Plan:
    """Return how many seeds and steps fit.

    Args:
        seconds: What is left of the budget.
        step_s: Seconds of one step in every compared precision, summed.
        evaluation_s: Seconds of one validation.
        runs_per_seed: Compared precisions, the baseline's included.
        seeds: Asked.
        steps: Asked, or the Task's own.
        fixed: Whether the steps are decided: then seeds give way first, and steps never.
        finished: Seeds that an earlier bench has trained already; they cost nothing.
    """
    apart = runs_per_seed * (RUN_OVERHEAD_S + evaluation_s)

    def fitting(count: int) -> int:
        """Return the steps that so many seeds have time for."""
        if count <= finished or step_s <= 0:
            return steps
        return int((SAFETY * seconds / (count - finished) - apart) / step_s)

    least = steps if fixed else min(MIN_STEPS, steps)
    for count in range(seeds, min(seeds, MIN_SEEDS) - 1, -1):
        if fitting(count) >= least:
            return Plan(seeds=count, steps=min(steps, fitting(count)), reason=_less(count, seeds))
    if finished:
        return Plan(seeds=finished, steps=steps, reason=_less(finished, seeds))
    wanted = f"{min(seeds, MIN_SEEDS)} runs of {least} steps in each precision"
    return Plan(seeds=0, steps=steps, reason=f"the {max(0.0, seconds):.0f} s left do not hold {wanted}: raise --budget")


def _less(count: int, asked: int) -> str:
    return f"the budget holds {count} of {asked} seeds" if count < asked else ""
