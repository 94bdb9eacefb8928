"""Run the loops in turn and time them; compare the weights that they end at."""

import gc
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loops import LOOPS, Run
from subjects import Subject

PRECISIONS = ("fp32", "bf16-mixed")

Row = tuple[str, str]
"""(loop, precision)."""
Seconds = dict[Row, list[float]]
"""The duration of every block, by row."""

ORDER_SEED = 0


def measure(subject: Subject, blocks: int, advance: Callable[[], None]) -> Seconds:
    """Return the seconds of every block of every row; `advance` is called after each block."""
    torch.set_num_threads(subject.threads)
    runs: dict[Row, Run] = {
        (loop, precision): make(subject, precision)[1] for precision in PRECISIONS for loop, make in LOOPS.items()
    }
    for run in runs.values():
        run(subject.warmup_steps)
    seconds: Seconds = {row: [] for row in runs}
    order, draw = list(runs), random.Random(ORDER_SEED)
    for _ in range(blocks):
        draw.shuffle(order)
        for row in order:
            seconds[row].append(_timed(runs[row], subject.steps_per_block))
        advance()
    return seconds


def _timed(run: Run, steps: int) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        run(steps)
        return time.perf_counter() - began
    finally:
        gc.enable()


def agreement(subject: Subject, precision: str) -> dict[str, Any]:
    """Return how far the final weights of ours are from the bare loops', relative to their norm, and the bound.

    fp32: plain and tuned multiply by a rounded reciprocal where ours divides, so each step may round a weight the
    other way once: steps * 2**-24 of the weight. bf16: a weight at the edge of two bf16 numbers may be cast the other
    way, which changes the gradients by their own precision: 2**-8 of the way that the weights have come.
    """
    torch.set_num_threads(subject.threads)
    start = _flat(subject.model())
    ends = {}
    for loop, make in LOOPS.items():
        model, run = make(subject, precision)
        run(subject.agreement_steps)
        ends[loop] = _flat(model)
    plain = ends["plain"]
    way = (plain - start).norm() / plain.norm()
    bound = subject.agreement_steps * 2**-24 if precision == "fp32" else 2**-8 * way.item()
    differences = {loop: ((ends["ours"] - ends[loop]).norm() / plain.norm()).item() for loop in ("plain", "tuned")}
    return {
        "steps": subject.agreement_steps,
        "moved": way.item(),
        "bound": bound,
        "difference": differences,
        "agree": max(differences.values()) <= bound,
    }


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([param.detach().double().flatten() for param in model.parameters()])
