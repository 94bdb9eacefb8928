"""Speed: all precisions side by side in one process, block by block.

Each starts from the same weights and trains on the same batches. A precision that fails leaves the race with its
reason; one that is only emulated leaves it when it has used its share of the time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import fmean, median
from time import perf_counter
from typing import Any

import torch

from ampguard.benchmarking.contender import BLOCK_S, Contender
from ampguard.benchmarking.lineup import Lineup
from ampguard.benchmarking.protocol import Timings, interleave
from ampguard.errors import AmpguardError, TaskError
from ampguard.health import Locator
from ampguard.task import Batch, Task
from ampguard.training.attempt import attempt
from ampguard.training.config import TrainConfig
from ampguard.training.data import leading, open_train_data, to_device, val_batches
from ampguard.training.evaluate import evaluate
from ampguard.training.setup import seed_everything

log = logging.getLogger("ampguard.benchmarking")

BATCHES = 8
"""Batches that every contender takes in turn: enough that none stays in a cache, few enough to lie on the device."""

EMULATED_SHARE = 0.2
"""Share of the time for speed that an emulated precision may use: it is measured to be told, not to be used."""

WARMUP_SHARE = 0.3
"""Share of the time for speed after which no warm-up goes on: blocks that are not quite warm are better than none."""

Told = Callable[[str, Timings], None]


class OutOfTimeError(Exception):
    """An emulated precision has used its share of the time."""


@dataclass(kw_only=True)
class Race:
    """What was found about speed; filled while it is measured."""

    timings: Timings = field(default_factory=Timings)
    """Seconds of one step, block by block."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a precision left the race."""
    capped: list[str] = field(default_factory=list)
    """Precisions that left because their share of the time was used."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Steps that were skipped, by precision."""
    samples: float | None = None
    """Samples in a step; None where they cannot be counted."""
    epoch_steps: int | None = None
    """Steps in an epoch; None where only reading tells."""
    data_wait_s: float | None = None
    """Seconds that fetching a batch took, the median."""
    evaluation_s: float | None = None
    """Seconds of one validation; None where there is none."""
    finished: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` takes them back."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Race":
        """Return the race that `as_dict` gave."""
        return Race(**{**values, "timings": Timings(**values["timings"])})

    def running(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that are still in the race."""
        return [name for name in names if name not in self.failures and name not in self.capped]


def run_race(lineup: Lineup, race: Race, *, blocks: int, budget_s: float, told: Told = lambda *_: None) -> None:
    """Measure the speed of each precision.

    Args:
        lineup: Who takes part; the training options' seed makes the weights and the batches.
        race: Takes what is found; what it holds already is not measured again.
        blocks: Timed blocks of each.
        budget_s: Seconds for all of it.
        told: Called with a stage and what is measured so far.

    Raises:
        AmpguardError: The Task has no data, or no model.
    """
    if race.finished:
        return
    end = perf_counter() + budget_s
    contenders = _contenders(lineup, race, budget_s=budget_s, told=told)
    emulated = lineup.emulated - {lineup.baseline}
    _fit_blocks([made for name, made in contenders.items() if name not in emulated], blocks, 0.7 * budget_s)
    warmup_end = perf_counter() + WARMUP_SHARE * budget_s

    def failed(name: str, error: Exception) -> None:
        if isinstance(error, OutOfTimeError):
            race.capped.append(name)
        else:
            race.failures[name] = reason_of(error)

    interleave(
        {
            name: _capped(made, EMULATED_SHARE * budget_s) if name in emulated else made.block
            for name, made in contenders.items()
        },
        blocks=blocks,
        seed=lineup.training.seed,
        time_left=lambda: perf_counter() < end,
        warmup_left=lambda: perf_counter() < warmup_end,
        failed=failed,
        told=lambda timings: told("speed", timings),
        timings=race.timings,
        unwarmed=emulated,
    )
    for name, made in contenders.items():
        _account(lineup.task, name, made, race)
    running = [contenders[name] for name in race.running(list(contenders))]
    race.evaluation_s = _time_evaluation(lineup.task, running[0], lineup.training) if running else None
    race.finished = True


def _contenders(lineup: Lineup, race: Race, *, budget_s: float, told: Told) -> dict[str, Contender]:
    """Return who starts: a contender for each precision that runs, which knows its block."""
    config = lineup.training
    seed_everything(config.seed, deterministic=False)
    weights = lineup.task.model().to(lineup.device)
    batches = _batches(lineup.task, config, lineup.device, race)
    share_s = budget_s / (3 * len(lineup.decisions))
    found = {}
    for name in race.running(list(lineup.decisions)):
        told(f"preparing {name}", race.timings)
        try:
            made = Contender(lineup.task, weights, config, decision=lineup.decisions[name], batches=batches)
            made.calibrate(min(BLOCK_S, share_s))
        except Exception as error:  # noqa: BLE001 - whatever a Task raises in one precision, the others go on
            race.failures[name] = reason_of(error)
            continue
        found[name] = made
    return found


def _batches(task: Task, config: TrainConfig, device: torch.device, race: Race) -> list[Batch]:
    data = open_train_data(task, batch_size=config.batch_size, seed=config.seed, workers=config.workers)
    times, batches, asked = [], [], perf_counter()
    for batch in islice(data.batches(0, 0), BATCHES):
        times.append(perf_counter() - asked)
        batches.append(to_device(batch, device))
        asked = perf_counter()
    if not batches:
        raise TaskError(f"Task {task.name!r}: train_data yields no batch.")
    race.data_wait_s = median(times)
    race.samples = _samples(task, batches)
    race.epoch_steps = data.batches_per_epoch
    return batches


def _samples(task: Task, batches: Sequence[Batch]) -> float | None:
    """Return the samples in a batch, their mean; None where they cannot be counted."""
    if task.count is not None:
        counts = [task.count(batch).get("samples") for batch in batches]
        known = [count for count in counts if count is not None]
        return fmean(known) if known else None
    try:
        return fmean(leading(batch) for batch in batches)
    except TaskError as error:
        log.info("samples are not counted: %s", error)
        return None


def _fit_blocks(contenders: Sequence[Contender], blocks: int, budget_s: float) -> None:
    """Shorten the blocks so that all of them fit into the budget."""
    wanted = sum(made.steps_per_block * made.step_s for made in contenders) * blocks
    if wanted > budget_s:
        for made in contenders:
            made.steps_per_block = max(1, int(made.steps_per_block * budget_s / wanted))


def _capped(made: Contender, share_s: float) -> Callable[[], float]:
    left = share_s

    def run() -> float:
        nonlocal left
        if left <= 0:
            raise OutOfTimeError
        seconds = made.block()
        left -= seconds * made.steps_per_block
        return seconds

    return run


def _time_evaluation(task: Task, made: Contender, config: TrainConfig) -> float | None:
    if task.val_data is None:
        return None
    began = perf_counter()
    size = config.val_batch_size or config.batch_size
    try:
        evaluate(
            task,
            made.model,
            val_batches(task, size, workers=config.workers),
            device=made.guard.device,
            autocast=made.guard.autocast(),
        )
    except Exception as error:  # noqa: BLE001 - whatever a Task's validation raises, parity meets it again and tells
        log.info("a validation cannot be timed: %s", reason_of(error))
        return None
    return perf_counter() - began


def _account(task: Task, name: str, made: Contender, race: Race) -> None:
    """Count what was skipped; a precision that never moved has failed, and the module that did it is named."""
    if name in race.failures:
        return
    skipped = made.skipped()
    race.skipped[name] = race.skipped.get(name, 0) + skipped
    if made.steps and skipped == made.steps:
        race.failures[name] = f"no step was applied, because no gradient was finite{_culprit(task, made)}"


def _culprit(task: Task, made: Contender) -> str:
    """Return the module that makes numbers non-finite, as ": module 'x' ..."; "" where it does not show."""
    with Locator(made.model) as locator:
        locator.check_inputs(made.batches[0])
        attempt(task, made.model, made.guard, made.batches[0], None)
    return "" if locator.finding is None else f": {locator.finding.message()}"


def reason_of(error: Exception) -> str:
    """Return why a precision failed, as a clause."""
    if isinstance(error, AmpguardError):
        return error.message.rstrip(".")
    # Compilers and allocators explain themselves over many lines; the first says what it is.
    said = (str(error).strip().splitlines() or [""])[0]
    name = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
    return f"{name}: {said}" if said else name
