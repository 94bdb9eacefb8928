"""A machine on paper: runners whose blocks take a known time, under noise of a known kind.

All runners share one machine, so its noise is one series that runs on from block to block whoever is measured.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ampguard.benchmarking import contender
from ampguard.benchmarking.footprint import Footprint
from ampguard.benchmarking.report import Memory
from ampguard.tasks import find_task

STEP = 0.05
"""Standard deviation of the log of a block's time."""
LENGTH = 400


def log_noise(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the log noise of LENGTH blocks in the order in which they are run."""
    plain = rng.normal(0, STEP, LENGTH)
    if kind == "drift":
        return plain + np.linspace(0, 3.0, LENGTH) * rng.choice((-1, 1))
    if kind in ("ar1", "own_ar1"):
        series = np.empty(LENGTH)
        series[0] = plain[0]
        for i in range(1, LENGTH):
            series[i] = 0.5 * series[i - 1] + plain[i] * np.sqrt(1 - 0.5**2)
        return series
    if kind == "bursts":
        busy, on = np.zeros(LENGTH), False
        for i, chance in enumerate(rng.random(LENGTH)):
            on = chance < (0.7 if on else 0.06)
            busy[i] = on
        return plain * 0.4 + busy * np.abs(rng.normal(0.5, 0.2, LENGTH))
    return plain


class Machine:
    """Runs blocks one after the other; "own_ar1": each runner has a noise of its own, as a GPU clock of one has."""

    def __init__(self, kind: str, seed: int, *, cold_blocks: int = 3) -> None:
        self._kind, self._rng, self._cold = kind, np.random.default_rng(seed), cold_blocks
        self._shared = iter(log_noise(kind, self._rng))

    def runner(self, seconds: float) -> Callable[[], float]:
        noise = iter(log_noise(self._kind, self._rng)) if self._kind == "own_ar1" else self._shared
        cold = iter(np.linspace(2.0, 1.0, self._cold, endpoint=False))

        def run() -> float:
            return seconds * float(np.exp(next(noise))) * float(next(cold, 1.0))

        return run


@pytest.fixture
def machine():
    """Makes a simulated machine: (kind of noise, seed) -> Machine."""
    return Machine


@pytest.fixture
def build():
    """Builds the Task of bench_task.py with options; sent to a fresh process, it is found again."""
    return find_task(f"{Path(__file__).with_name('bench_task.py')}:build")


@pytest.fixture
def quick(tmp_path):
    """Options of a bench that takes a second: ten blocks, three seeds of five steps."""
    return {
        "precisions": ("fp32", "bf16"),
        "on_unsupported": "emulate",
        "blocks": 10,
        "seeds": 3,
        "parity_steps": 5,
        "budget": "1h",
        "device": "cpu",
        "out": tmp_path / "bench",
    }


@pytest.fixture
def no_memory(monkeypatch):
    """Leaves the fresh processes out, each of which imports torch: 10 MiB for whatever is measured."""
    found = Footprint(peak=10.0, parts=Memory(weights=4.0, gradients=4.0))
    monkeypatch.setattr("ampguard.benchmarking.memory.footprint", lambda job, *, timeout_s: found)
    monkeypatch.setattr(contender, "MAX_STEPS", 3)
