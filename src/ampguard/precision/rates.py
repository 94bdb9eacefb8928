"""What a device was measured at in each precision: the rate of matrix products and the bandwidth of memory.

    rate       2 * n**3 operations of an (n, n) by (n, n) product, over the median time
    ratio      fp32's median time over this precision's, for the same product
    bandwidth  the triad a = b + 3 * c, in the precision's dtype: three arrays of TRIAD_BYTES each, over the median time

Everything is timed in interleaved rounds, so that a machine that slows down slows every precision.

Left out: a model's own speed, which also depends on everything between its products; and caches: a machine whose
caches hold the triad's arrays shows their bandwidth, not memory's.

Source: McCalpin, STREAM (www.cs.virginia.edu/stream): how the triad's bytes are counted.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from ampguard.hardware import Hardware, Support
from ampguard.precision.autocast import kept_math_mode
from ampguard.precision.blocks import BLOCK_S, TRIAD_BYTES, Bench, Block, Kernels, Plan, Tell, Timing
from ampguard.precision.policy import IMPLEMENTED, policy_of

BUDGET_S = 6.0
"""Seconds for the rounds; finding the sizes comes before, and takes a second or two."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What one precision was measured at; None where it was not."""

    measured_tflops: float | None = None
    """Rate of matrix products, 10**12 operations a second."""
    ratio_to_fp32: float | None = None
    """That rate over fp32's for the same product."""
    slower_than_fp32: bool | None = None
    """Whether it is: the interquartile ranges of the two times do not touch."""
    bandwidth_gb_per_s: float | None = None
    """10**9 bytes of the triad a second."""
    matmul_shape: list[int] | None = None
    """The product (m, k) by (k, n), as [m, n, k]."""
    matmul_ms: dict[str, float | int] | None = None
    """{"median", "iqr", "n"} of one product."""
    triad_ms: dict[str, float | int] | None = None
    """{"median", "iqr", "n"} of one triad."""
    reason: str | None = None
    """Why a figure is missing that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device was measured at; empty where nothing was measured."""

    settings: dict[str, Any] | None = None
    """How it was measured: versions, threads, operations."""
    by_precision: dict[str, Rate] = field(default_factory=dict)

    def of(self, precision: str) -> Rate:
        """Return what a precision was measured at; all None if it was not."""
        return self.by_precision.get(precision, Rate())


def measure_rates(
    hardware: Hardware,
    device: torch.device,
    *,
    kernels: Kernels | None = None,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = perf_counter,
    tell: Tell | None = None,
) -> Rates:
    """Measure every precision that a device computes, native or emulated; what cannot be measured has a reason.

    Random numbers and the float32 math mode are afterwards as they were.

    Args:
        hardware: What the device can do.
        device: The device itself.
        kernels: The operations; None: those of this file.
        budget_s: Seconds for the rounds. Every operation runs at least once whatever it takes.
        clock: Returns seconds, monotone.
        tell: Is told how far the measurement is.

    Sync: one per timed block.
    """
    settings = _settings(device, budget_s)
    bench = Bench(kernels or Kernels(device), device, clock)
    plans: dict[str, Plan] = {}
    rates: dict[str, Rate] = {}
    with kept_math_mode(device):
        for fact in hardware.precisions:
            if tell is not None:
                tell(f"sizes for {fact.precision}", 0.0)
            found = _planned(bench, fact)
            if isinstance(found, Plan):
                plans[fact.precision] = found
            else:
                rates[fact.precision] = Rate(reason=found)
        blocks = [block for plan in plans.values() for block in (plan.matmul, plan.fp32, plan.triad)]
        timings = bench.rounds(list(dict.fromkeys(blocks)), budget_s, tell)
    rates |= {precision: _rate(plan, timings, precision) for precision, plan in plans.items()}
    return Rates(settings=settings, by_precision=rates)


def _planned(bench: Bench, fact: Support) -> Plan | str:
    """Return the plan of a precision, or why there is none."""
    if fact.support == "none":
        return fact.source
    if fact.precision not in IMPLEMENTED:
        return f"{fact.precision} is not available in this version of ampguard"
    try:
        return bench.plan(policy_of(fact.precision))
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _rate(plan: Plan, timings: dict[Block, Timing], precision: str) -> Rate:
    size = plan.matmul.size
    matmul, fp32, triad = timings[plan.matmul], timings[plan.fp32], timings[plan.triad]
    tflops, bandwidth = _over(2 * size**3 / 1e12, matmul), _over(3 * TRIAD_BYTES / 1e9, triad)
    ratio = _over(fp32.median, matmul)
    return Rate(
        measured_tflops=tflops,
        ratio_to_fp32=ratio,
        slower_than_fp32=matmul.quartiles[0] > fp32.quartiles[1],
        bandwidth_gb_per_s=bandwidth,
        matmul_shape=[size] * 3,
        matmul_ms=matmul.as_ms(),
        triad_ms=triad.as_ms(),
        reason=None if tflops and bandwidth else f"the clock saw no time pass for {precision}",
    )


def _over(work: float, timing: Timing) -> float | None:
    """Return work per second; None where the clock saw no time pass."""
    return work / timing.median if timing.median > 0 else None


def _settings(device: torch.device, budget_s: float) -> dict[str, Any]:
    """Return how it is measured; the load of a CPU before it, for a busy one shows less than it can."""
    load = os.getloadavg()[0] if device.type == "cpu" and hasattr(os, "getloadavg") else None
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": load,
        "matmul": "torch.mm of square matrices of normal numbers; 2 * m * n * k operations",
        "triad": "a = b + 3 * c; the bytes of three arrays",
        "triad_array_bytes": TRIAD_BYTES,
        "block_ms": BLOCK_S * 1e3,
        "budget_s": budget_s,
    }
