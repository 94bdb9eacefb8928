"""The stage that trains: each precision from the same seeds, as `ampguard train` trains, in run folders of its own."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from ampguard.benchmarking.budget import Plan, plan_parity
from ampguard.benchmarking.config import BenchConfig
from ampguard.benchmarking.lineup import Lineup
from ampguard.benchmarking.parity import CURVE_POINTS, Outcome, read_outcome
from ampguard.benchmarking.race import reason_of
from ampguard.benchmarking.state import State
from ampguard.errors import AmpguardError
from ampguard.task import Task
from ampguard.training.run import train

SLOW = 5.0
"""A precision this many times slower than the baseline is not trained for parity: it would take the whole budget."""

TOO_SLOW = f"it is more than {SLOW:.0f} times slower than the baseline, too slow to be trained here"

Outcomes = dict[str, dict[int, Outcome]]
"""Runs by precision and seed."""


class InterruptedBenchError(Exception):
    """Somebody pressed Ctrl-C while a run trained; it has saved itself."""


class ParityRuns:
    """Trains what parity compares.

    Args:
        lineup: Who takes part.
        config: Options of the bench.
        state: Its race says how fast each precision is; it keeps the steps that were planned.
        folder: Holds one run folder for each precision and seed.
        origin: How to find the Task again.
    """

    def __init__(
        self, lineup: Lineup, config: BenchConfig, state: State, *, folder: Path, origin: Mapping[str, Any]
    ) -> None:
        self._lineup, self._config, self._state = lineup, config, state
        self._folder, self._origin = folder, origin
        self.plan = Plan(seeds=0, steps=0, reason="it was interrupted before")
        self.outcomes: Outcomes = {}
        """What has been trained so far."""

    def make_plan(self, *, left_s: float) -> None:
        """Decide how many seeds and steps fit into what is left."""
        self.plan = self._plan(left_s)
        if self.plan.seeds:
            self._state.parity_steps = self.plan.steps
            self._state.save()

    def _plan(self, left_s: float) -> Plan:
        race, config = self._state.race, self._config
        if self._lineup.task.val_data is None and config.metric is None:
            return Plan(seeds=0, steps=0, reason="the Task has no validation data")
        if isinstance(self._lineup.task.train_data, Iterator):
            return Plan(seeds=0, steps=0, reason="train_data can be read only once, and every run would read it")
        if self._lineup.baseline in race.failures:
            return Plan(seeds=0, steps=0, reason=f"the baseline {self._lineup.baseline} failed")
        compared = self.compared()
        if len(compared) < 2:
            return Plan(seeds=0, steps=0, reason=self._why_alone())
        decided = config.parity_steps or self._state.parity_steps
        return plan_parity(
            seconds=left_s,
            step_s=sum(median(race.timings.blocks_s[name]) for name in compared),
            evaluation_s=race.evaluation_s or 0.0,
            runs_per_seed=len(compared),
            seeds=config.seeds,
            steps=decided or self._own_steps(),
            fixed=decided is not None,
            finished=self._finished(compared),
        )

    def _why_alone(self) -> str:
        """Return why the baseline has nothing to be compared with."""
        times, baseline = self._state.race.timings.blocks_s, self._lineup.baseline
        if not times.get(baseline):
            return f"no block of {baseline} was measured"
        measured = [name for name in self._lineup.decisions if name != baseline and times.get(name)]
        return TOO_SLOW if measured else "there is nothing to compare the baseline with"

    def _own_steps(self) -> int:
        training = self._lineup.training
        if training.epochs is not None and self._state.race.epoch_steps is not None:
            return training.epochs * self._state.race.epoch_steps
        return training.steps or 1000

    def _finished(self, compared: list[str]) -> int:
        """Return the seeds, from the first on, that an earlier bench has trained in every precision."""
        for index in range(self._config.seeds):
            if any(read_outcome(self._path(name, self._config.seed + index)) is None for name in compared):
                return index
        return self._config.seeds

    def compared(self) -> list[str]:
        """Return the precisions that are trained: those that run, and not much slower than the baseline."""
        race, baseline = self._state.race, self._lineup.baseline
        times = race.timings.blocks_s
        runs = [name for name in self._lineup.decisions if name not in race.failures and times.get(name)]
        if baseline not in runs:
            return []
        limit = SLOW * median(times[baseline])
        return [name for name in runs if name == baseline or median(times[name]) <= limit]

    def train(self, *, left_s: Callable[[], float], told: Callable[[str, int, Plan], None]) -> None:
        """Train seed by seed, so that an early end leaves whole pairs.

        Args:
            left_s: Seconds that are left of the budget: no seed begins that would not fit.
            told: Called with (precision, seed from 0 on, plan) when a run begins.

        Raises:
            InterruptedBenchError: Somebody pressed Ctrl-C.
        """
        compared = self.compared() if self.plan.seeds else []
        finished, longest = self._finished(compared), 0.0
        for index in range(self.plan.seeds):
            is_new = index >= finished
            if is_new and index and left_s() < longest:
                return
            began = perf_counter()
            for name in compared:
                seed = self._config.seed + index
                outcome = read_outcome(self._path(name, seed))
                if outcome is None:
                    told(name, index, self.plan)
                    outcome = self._train(name, seed)
                self.outcomes.setdefault(name, {})[seed] = outcome
            if is_new:
                longest = max(longest, perf_counter() - began)

    def _train(self, name: str, seed: int) -> Outcome:
        training = self._lineup.training
        return train_once(
            self._lineup.task,
            self._path(name, seed),
            self.plan.steps,
            origin=self._origin,
            precision=name,
            on_unsupported="emulate" if name in self._lineup.emulated else "error",
            seed=seed,
            batch_size=training.batch_size,
            micro_batch_size=training.micro_batch_size,
            compile=training.compile,
            device=self._config.device,
        )

    def _path(self, name: str, seed: int) -> Path:
        return self._folder / name / f"seed-{seed}"


def train_once(task: Task, folder: Path, steps: int, **options: Any) -> Outcome:
    """Train in a run folder, validate at the end, and return what came of it; a finished folder is only read.

    Args:
        task: What to train.
        folder: The run folder; its checkpoints are removed when the run has finished.
        steps: Optimizer steps.
        options: Of `train`.

    Raises:
        InterruptedBenchError: Somebody pressed Ctrl-C; the folder goes on from there.
    """
    done = read_outcome(folder)
    if done is not None:
        return done
    goes_on = (folder / "checkpoints" / "latest").exists()
    if not goes_on:
        # What a run that was killed before its first checkpoint left: nothing that could be gone on with.
        shutil.rmtree(folder, ignore_errors=True)
    try:
        record = train(
            task,
            steps=steps,
            out=folder,
            resume="auto" if goes_on else None,
            validate_every=steps,
            log_every=max(1, steps // CURVE_POINTS),
            checkpoint_every=str(steps),
            on_collapse="raise",
            report=False,
            **options,
        )
    except AmpguardError as error:
        return Outcome(final={}, curve=(), failure=reason_of(error))
    if record.status != "finished":
        raise InterruptedBenchError
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return read_outcome(folder) or Outcome(final=record.final, curve=())
