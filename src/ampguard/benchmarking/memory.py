"""The stage that measures memory, in fresh processes: each precision as it trains, then how much more would fit."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import torch
from torch.utils.data import DataLoader, Dataset

from ampguard.benchmarking.footprint import MIB, Footprint
from ampguard.benchmarking.lineup import Lineup
from ampguard.benchmarking.micro_batch import Largest, largest_fitting
from ampguard.benchmarking.state import State
from ampguard.benchmarking.worker import FootprintError, Job, footprint
from ampguard.training.config import TrainConfig

log = logging.getLogger("ampguard.benchmarking")

LEAST_S = 60.0
"""Seconds that all footprints have at least: each is a process that imports torch, and takes as long as it takes."""

LEAST_EACH_S = 20.0
"""Seconds that one of them has at least, whatever the others took."""

Measure = Callable[[Job, float], Footprint]
"""Measures a job within seconds; FootprintError where it cannot."""


def _in_fresh_process(job: Job, timeout_s: float) -> Footprint:
    return footprint(job, timeout_s=timeout_s)


class MemoryStage:
    """Fills a state's footprints and largest micro-batches.

    Args:
        lineup: Who takes part.
        state: Takes what is found, and is saved after each; what it holds is not measured again.
        told: Called with what begins.
        measure: Measures one job; a process of its own, but for tests.
    """

    def __init__(
        self, lineup: Lineup, state: State, *, told: Callable[[str], None], measure: Measure = _in_fresh_process
    ) -> None:
        self._lineup, self._state, self._told, self._measure = lineup, state, told, measure
        self.reasons: dict[str, str] = {}
        """Why a precision's memory is not known."""

    def footprints(self, names: Sequence[str], *, budget_s: float) -> None:
        """Measure the memory of each precision as it trains."""
        end = perf_counter() + max(LEAST_S, budget_s)
        for name in names:
            if name in self._state.footprints:
                continue
            self._told(f"memory of {name}")
            try:
                job = self._job(name, self._lineup.training)
                found = self._measure(job, max(LEAST_EACH_S, end - perf_counter()))
            except FootprintError as error:
                log.warning("the memory of %s was not measured: %s.", name, error)
                self.reasons[name] = str(error)
                continue
            self._state.footprints[name] = found
            self._state.save()

    def largest(self, names: Sequence[str], *, limit_mib: float, budget_s: float) -> None:
        """Find the largest micro-batch of each precision whose peak stays under a limit."""
        for name in names:
            if name in self._state.largest:
                continue
            self._told(f"largest micro-batch of {name} under {limit_mib:,.0f} MiB")
            end = perf_counter() + budget_s / len(names)
            try:
                self._state.largest[name] = self._search(name, limit_mib, end)
            except FootprintError as error:
                self._state.largest[name] = Largest(size=None, reason=str(error))
            self._state.save()

    def _search(self, name: str, limit_mib: float, end: float) -> Largest:
        ready_made = self._lineup.ready_made
        samples = int(self._state.race.samples or 0)
        if not samples:
            return Largest(size=None, reason="the samples of a batch cannot be counted")

        def fits(size: int) -> bool:
            # Batches that the data makes are cut; those that we make are made of that size.
            sizes = {"micro_batch_size": size} if ready_made else {"batch_size": size, "micro_batch_size": None}
            job = self._job(name, replace(self._lineup.training, **sizes))
            try:
                peak = self._measure(job, max(LEAST_EACH_S, end - perf_counter())).peak
            except FootprintError as error:
                if error.out_of_memory:
                    return False
                raise
            if peak is None:
                raise FootprintError("this system does not tell a process's peak memory")
            return peak <= limit_mib

        return largest_fitting(
            fits,
            start=samples,
            most=samples if ready_made else _all_samples(self._lineup.task.train_data, samples),
            time_left=lambda: perf_counter() < end,
        )

    def _job(self, name: str, config: TrainConfig) -> Job:
        lineup = self._lineup
        return Job(task=lineup.task, config=config, decision=lineup.decisions[name], device=str(lineup.device))


def _all_samples(data: object, batch: int) -> int:
    """Return the samples of the training data, which no batch can be larger than; `batch`, if nobody tells."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    length = getattr(dataset, "__len__", None)
    return max(batch, int(length())) if isinstance(dataset, Dataset) and length is not None else batch


def device_limit_mib(device: torch.device) -> float | None:
    """Return the memory of an accelerator; None for a CPU, whose memory is everybody's, and where it is not told."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory) / MIB
    if device.type == "xpu":
        return float(torch.xpu.get_device_properties(device).total_memory) / MIB
    return None
