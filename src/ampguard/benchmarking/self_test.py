"""`bench --self-test`: does the bench find what is there, and nothing else, on this machine and this Task?

fp32 races against itself and against a copy whose forward waits, then trains beside a copy of itself and one whose
gradients are damaged:

    same speed       the 95 % interval of fp32 over fp32 holds 1.0
    planted delay    a forward that waits a fifth of a step makes the interval lie below 1.0
    same accuracy    fp32 beside fp32 is equivalent
    planted damage   every gradient flushed to zero, as where fp16 underflows, is different

A right bench fails the first check in 5 of 100 runs, which is what 95 % means.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ampguard.benchmarking.config import BenchConfig, make_config
from ampguard.benchmarking.contender import BLOCK_S, Contender
from ampguard.benchmarking.equivalence import MIN_SEEDS
from ampguard.benchmarking.intervals import NOISY, Ratio, speedup
from ampguard.benchmarking.lineup import Lineup, line_up
from ampguard.benchmarking.parity import Outcome, choose_metric, judge, not_measured
from ampguard.benchmarking.parity_runs import InterruptedBenchError, train_once
from ampguard.benchmarking.planted import Clock, Wait, damaged, delay, looking_at
from ampguard.benchmarking.protocol import interleave
from ampguard.benchmarking.report import Parity
from ampguard.errors import RunError, TaskError
from ampguard.precision.autocast import kept_math_mode
from ampguard.records import SCHEMA
from ampguard.task import Batch, Task
from ampguard.training.data import open_train_data, to_device
from ampguard.training.folder import fresh_path
from ampguard.training.setup import seed_everything

SLOW_DOWN = 0.2
"""Share of a step that the planted delay takes."""

FALSE_ALARMS_PCT = 5
"""Of a hundred self-tests of a right bench, so many fail their first check."""

STEPS = 40
"""Optimizer steps of each parity run, where nobody says: enough for a loss to leave its start."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One of the four."""

    name: str
    expected: str
    found: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the self-test found."""

    task: str
    device: str
    checks: tuple[Check, ...]
    wall_s: float

    @property
    def passed(self) -> bool:
        """Whether all checks did."""
        return all(check.passed for check in self.checks)

    @property
    def note(self) -> str:
        """What to think of a failure, in words."""
        return (
            f"Expected false alarms: {FALSE_ALARMS_PCT} % of self-tests fail 'same speed' on a right bench, for the "
            "interval is one of 95 %. Run it again before you believe it."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        status = "passed" if self.passed else "failed"
        return {"schema": SCHEMA, "status": status, "expected_false_alarms_pct": FALSE_ALARMS_PCT, **asdict(self)}


def self_test(
    task: Task,
    *,
    origin: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda _: None,
    clock: Clock = perf_counter,
    wait: Wait | None = None,
    **options: Any,
) -> SelfTest:
    """Test the bench on a Task: fp32 against itself, and two planted faults.

    Args:
        task: What to train.
        origin: How to find the Task again.
        told: Called with what begins.
        clock: Returns seconds, monotone.
        wait: Lets seconds of that clock pass; None: looks at the clock until they have.
        options: Fields of BenchConfig; blocks, parity_steps, batch sizes, seed, device and out count here.

    Raises:
        InputError: What was given cannot work.
        RunError: The Task does not train in fp32.
        KeyboardInterrupt: Somebody pressed Ctrl-C.
    """
    began, config = perf_counter(), replace(make_config(options), precisions=("fp32",), baseline="fp32")
    lineup = line_up(task, config)
    with kept_math_mode(lineup.device):
        speeds = _race(lineup, config, told=told, clock=clock, wait=wait or looking_at(clock))
    folder = config.out or fresh_path(f"bench-self-test-{task.name}")
    parities = _parities(lineup, config, folder, origin=origin or {}, told=told)
    checks = (
        _same_speed(speeds["fp32 again"]),
        _planted_delay(speeds["delayed"]),
        _same_accuracy(parities["fp32 again"]),
        _planted_damage(parities["damaged"]),
    )
    return SelfTest(task=task.name, device=lineup.hardware.label, checks=checks, wall_s=perf_counter() - began)


def _race(
    lineup: Lineup, config: BenchConfig, *, told: Callable[[str], None], clock: Clock, wait: Wait
) -> dict[str, Ratio]:
    """Return the speed-up over fp32 of fp32 again, and of fp32 with a delay in its forward."""
    told(f"speed: {config.blocks} blocks of fp32, of fp32 again, and of fp32 with a planted delay of {SLOW_DOWN:.0%}")
    seed_everything(config.seed, deterministic=False)
    weights, batch = lineup.task.model().to(lineup.device), _first_batch(lineup)
    made = {
        name: Contender(
            lineup.task, weights, lineup.training, decision=lineup.decisions["fp32"], batches=[batch], clock=clock
        )
        for name in ("fp32", "fp32 again", "delayed")
    }
    made["fp32"].calibrate(BLOCK_S)
    for other in made.values():
        other.steps_per_block = made["fp32"].steps_per_block
    delay(made["delayed"].model, made["fp32"].step_s * SLOW_DOWN / _forwards(lineup), lineup.device, wait)
    times = interleave(
        {name: contender.block for name, contender in made.items()}, blocks=config.blocks, seed=config.seed
    ).blocks_s
    return {name: speedup(times["fp32"], times[name]) for name in ("fp32 again", "delayed")}


def _first_batch(lineup: Lineup) -> Batch:
    training = lineup.training
    data = open_train_data(lineup.task, batch_size=training.batch_size, seed=training.seed, workers=training.workers)
    return to_device(data.peek(), lineup.device)


def _forwards(lineup: Lineup) -> int:
    """Return the forwards in a step."""
    size, micro = lineup.training.batch_size, lineup.training.micro_batch_size
    return 1 if not size or not micro else -(-size // micro)


def _parities(
    lineup: Lineup, config: BenchConfig, folder: Path, *, origin: Mapping[str, Any], told: Callable[[str], None]
) -> dict[str, Parity]:
    """Return the parity with fp32 of fp32 again, and of fp32 whose gradients are flushed to zero."""
    if lineup.task.val_data is None:
        none = not_measured("the Task has no validation data", margin=config.loss_margin)
        return {"fp32 again": none, "damaged": none}
    steps, training = config.parity_steps or STEPS, lineup.training
    tasks = {
        "fp32": lineup.task,
        "fp32 again": lineup.task,
        "damaged": replace(lineup.task, model=damaged(lineup.task)),
    }
    found: dict[str, dict[int, Outcome]] = {name: {} for name in tasks}
    for seed in range(config.seed, config.seed + MIN_SEEDS):
        for name, task in tasks.items():
            told(f"accuracy: seed {seed - config.seed + 1} of {MIN_SEEDS}, {name}, {steps} steps")
            found[name][seed] = _trained(
                task,
                folder / name.replace(" ", "-") / f"seed-{seed}",
                steps,
                origin=origin,
                precision="fp32",
                seed=seed,
                batch_size=training.batch_size,
                micro_batch_size=training.micro_batch_size,
                device=config.device,
            )
    return {name: _judged(found["fp32"], found[name], config, steps) for name in ("fp32 again", "damaged")}


def _trained(task: Task, folder: Path, steps: int, **options: Any) -> Outcome:
    try:
        outcome = train_once(task, folder, steps, **options)
    except InterruptedBenchError:
        raise KeyboardInterrupt from None
    if outcome.failure:
        raise RunError(f"Task {task.name!r} does not train in fp32: {outcome.failure}.")
    return outcome


def _judged(base: Mapping[int, Outcome], other: Mapping[int, Outcome], config: BenchConfig, steps: int) -> Parity:
    metric = choose_metric([*base.values(), *other.values()], config.metric)
    if metric is None:
        raise TaskError(f"the runs have no metric {config.metric or 'val/loss'!r}.", hint="Give another --metric.")
    return judge(
        base,
        other,
        metric=metric,
        steps=steps,
        accuracy_margin=config.accuracy_margin,
        loss_margin=config.loss_margin,
    )


def _same_speed(ratio: Ratio) -> Check:
    low, high = ratio.ci95 or (None, None)
    passed = low is not None and high is not None and low <= 1.0 <= high
    return Check(name="same speed", expected="an interval that holds 1.0", found=_ratio_words(ratio), passed=passed)


def _planted_delay(ratio: Ratio) -> Check:
    passed = ratio.ci95 is not None and ratio.ci95[1] < 1.0
    return Check(
        name=f"planted delay of {SLOW_DOWN:.0%}",
        expected=f"an interval below 1.0, near {1 / (1 + SLOW_DOWN):.2f}",
        found=_ratio_words(ratio),
        passed=passed,
    )


def _ratio_words(ratio: Ratio) -> str:
    if ratio.median is None or ratio.ci95 is None:
        return f"no interval: {ratio.reason}"
    noisy = ratio.spread is not None and ratio.spread > NOISY
    noise = f"; a noisy machine: the ratios spread over {ratio.spread:.0%}" if noisy else ""
    return f"{ratio.median:.3f} (95 % CI {ratio.ci95[0]:.3f}-{ratio.ci95[1]:.3f}, {ratio.n} blocks{noise})"


def _same_accuracy(parity: Parity) -> Check:
    return Check(
        name="same accuracy",
        expected="equivalent",
        found=_parity_words(parity),
        passed=parity.result == "equivalent",
    )


def _planted_damage(parity: Parity) -> Check:
    return Check(
        name="planted damage",
        expected="different",
        found=_parity_words(parity),
        passed=parity.result == "different",
    )


def _parity_words(parity: Parity) -> str:
    word = parity.result.replace("_", " ")
    if parity.difference is None or parity.ci90 is None:
        return f"{word}: {parity.reason}"
    low, high = parity.ci90
    interval = f"90 % CI {low:+.3g} to {high:+.3g}, margin {parity.margin:g}"
    return f"{word}: {parity.metric} {parity.difference:+.3g} ({interval}; {parity.seeds} seeds, {parity.steps} steps)"
