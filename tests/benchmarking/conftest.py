"""A machine on paper: runners whose blocks take a known time, under noise of a known kind.

All runners share one machine, so its noise is one series that runs on from block to block whoever is measured.
"""

from collections.abc import Callable

import numpy as np
import pytest

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
