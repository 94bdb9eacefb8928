"""Time and throughput between two rows, from the host's clock; a value that cannot be told is absent."""

from collections.abc import Mapping
from time import perf_counter

import torch


class Meter:
    """Counts what passed since the last row and since the start."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = perf_counter()
        self._idle_s = 0.0
        self._total: dict[str, int] = {}
        self._restart()

    def _restart(self) -> None:
        self._since = perf_counter()
        self._steps = 0
        self._wait_s = 0.0
        self._counts: dict[str, int] = {}

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for data."""
        self._wait_s += seconds

    def stepped(self, counts: Mapping[str, int]) -> None:
        """Count a step and what was in its batch, for example {"samples": 64, "tokens": 8192}."""
        self._steps += 1
        for name, number in counts.items():
            self._counts[name] = self._counts.get(name, 0) + number
            self._total[name] = self._total.get(name, 0) + number

    def paused(self, seconds: float) -> None:
        """Leave out time that was spent on validation or a checkpoint."""
        self._since += seconds
        self._idle_s += seconds

    def row(self) -> dict[str, float]:
        """Return the metrics of the steps since the last row, and begin anew."""
        elapsed, metrics = perf_counter() - self._since, {}
        if self._steps and elapsed > 0:
            metrics["time/step_ms"] = 1e3 * elapsed / self._steps
            metrics["time/data_wait_ms"] = 1e3 * self._wait_s / self._steps
            metrics |= {f"throughput/{name}_per_s": number / elapsed for name, number in self._counts.items()}
        if self._device.type == "cuda":
            metrics["memory/peak_allocated_mib"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        self._restart()
        return metrics

    def samples_per_s(self) -> float | None:
        """Return the samples per second of training since the start; None where it cannot be told."""
        busy = perf_counter() - self._began - self._idle_s
        samples = self._total.get("samples", 0)
        return samples / busy if samples and busy > 0 else None
