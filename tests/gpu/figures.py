"""Step time and peak memory, ours over the bare loop, on a device.

Within a precision the two loops run in turn, block by block, on the same batches, the device drained before and after
each block: one ratio a block, median and 95 % interval over blocks (benchmarks/paired.py). Ours has clipping, schedule
and every guarantee on; the bare loop has torch's own clipping, schedule and, in fp16, GradScaler. Neither logs.

Precisions are measured one after the other, so their `step_ms` are for orientation and no ratio is taken of them.
"""

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from bare import Loss, Recipe, Step, bare, guarded
from step_checks import batches, mean_loss, network
from torch import nn

from ampguard.tasks import text
from paired import block_ratios, summarise

MEMORY_STEPS = 5
"""Steps until memory has peaked: the first makes the optimizer's state, the second has it in its backward."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is trained."""

    name: str
    what: str
    build: Callable[[], nn.Module]
    """A model on the device, with the same first weights at each call."""
    loss: Loss
    batches: list[Any]
    steps_per_block: int


def mlp(device: torch.device, steps_per_block: int = 100) -> Subject:
    """Return the MLP 32-64-10, batch 16: the step is all overhead."""
    return Subject(
        name="mlp",
        what="MLP 32-64-10, batch 16",
        build=lambda: network(device, norm=False),
        loss=mean_loss,
        batches=batches(device, 64),
        steps_per_block=steps_per_block,
    )


def gpt(device: torch.device, steps_per_block: int = 10, **options: Any) -> Subject:
    """Return the Task `text` on batches of 32 windows; `options` are the Task's, by default its size small."""
    task = text.build(**({"size": "small"} | options))
    windows: Any = task.train_data
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[:128]

    def build() -> nn.Module:
        torch.manual_seed(0)
        return task.model().to(device)

    def mean(model: nn.Module, batch: Any) -> Any:
        total = task.loss(model, batch)
        return total.total / total.count

    return Subject(
        name="text",
        what=f"byte-level GPT, size {task.info['size']}, context {task.info['context']}, batch 32",
        build=build,
        loss=mean,
        batches=list(torch.stack([windows[int(index)] for index in order]).to(device).split(32)),
        steps_per_block=steps_per_block,
    )


def recipe(precision: str) -> Recipe:
    return Recipe(precision=precision, max_norm=1.0, lr_factor=lambda step: max(0.01, 1 - step / 100_000))


LOOPS: dict[str, Callable[..., tuple[Step, Any]]] = {"ours": guarded, "bare": bare}
"""Ours first: a Guard sets the float32 math mode of the precision, which the bare loop then shares."""


def measure(device: torch.device, subject: Subject, precision: str, blocks: int) -> dict[str, Any]:
    """Return {"step_ms", "overhead": {"median", "ci95", "blocks", "samples"}, "peak_memory_mib"} of a precision."""
    memory = {name: _peak_mib(device, make, subject, precision) for name, make in LOOPS.items()}
    seconds = _in_turn(device, subject, precision, blocks)
    samples = block_ratios(seconds["ours"], seconds["bare"])
    ratio = summarise(samples)
    return {
        "what": subject.what,
        "step_ms": {name: median(times) / subject.steps_per_block * 1e3 for name, times in seconds.items()},
        "overhead": {
            "median": ratio.median,
            "ci95": [ratio.low, ratio.high],
            "blocks": ratio.blocks,
            "steps_per_block": subject.steps_per_block,
            "samples": [round(sample, 5) for sample in samples],
        },
        "peak_memory_mib": memory,
    }


def _in_turn(device: torch.device, subject: Subject, precision: str, blocks: int) -> dict[str, list[float]]:
    steps = {name: make(subject.build(), subject.loss, recipe(precision))[0] for name, make in LOOPS.items()}
    for step in steps.values():
        _timed(device, step, subject)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, draw = list(steps), random.Random(0)
    for _ in range(blocks):
        draw.shuffle(order)
        for name in order:
            seconds[name].append(_timed(device, steps[name], subject))
    return seconds


def _timed(device: torch.device, step: Step, subject: Subject) -> float:
    gc.collect()
    gc.disable()
    drain(device)
    began = time.perf_counter()
    try:
        for index in range(subject.steps_per_block):
            step(subject.batches[index % len(subject.batches)])
        drain(device)
    finally:
        gc.enable()
    return time.perf_counter() - began


def drain(device: torch.device) -> None:
    """Wait until the device has done what it was given. Sync: one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device: torch.device, make: Callable[..., Any], subject: Subject, precision: str) -> float | None:
    """Return the peak of allocated memory over what was there before the model; None where nobody counts it."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step, _ = make(subject.build(), subject.loss, recipe(precision))
    for index in range(MEMORY_STEPS):
        step(subject.batches[index % len(subject.batches)])
    drain(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
