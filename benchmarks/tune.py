"""What a search costs over bare Optuna: 200 trials of 100 ms of work each; writes benchmarks/results/tune.json.

A trial's work is five sleeps of 20 ms, each followed by a report to the pruner, and a value made of its parameters. The
same four parameters, sampler, storage (a journal file, synced at each write) and no pruning everywhere, so that each
trial is the whole 100 ms:

    bare       optuna: study.optimize
    here       ampguard's trials, in one process
    dispatched ampguard's trials, in one worker process that is told and answers by pipe

The three take turns trial by trial, in an order that turns around, so that a slow moment of the machine or its disk
falls on all. A trial is timed from before its parameters are asked for to after its result is written. The figure is
the median of the paired differences to the bare trial of the same turn, as a share of the median bare trial; the ratio
of the sums, in which single stalls of the disk weigh fully, stands beside it. Left out: the start of the worker's
process, what train itself costs (benchmarks/overhead.py), and the report at the end. The load of the machine stands in
the record.

    python benchmarks/tune.py [--trials 200] [--out FILE]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.pruners import NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import ampguard
from ampguard.hardware import inspect
from ampguard.tuning import worker
from ampguard.tuning.config import make_config
from ampguard.tuning.dispatch import Dispatcher
from ampguard.tuning.lock import locked
from ampguard.tuning.objective import Result
from ampguard.tuning.plan import Plan, make_plan
from ampguard.tuning.study import enqueue_default, open_study
from ampguard.tuning.trials import Trials
from ampguard.tuning.watch import Watch

WORK_S = 0.1
VALIDATIONS = 5
LIMIT_PCT = 5.0
"""The promise of the issue."""
SPACE = ("lr=log:1e-5:1e-2", "batch_size=log-int:4:64", "warmup_steps=int:0:100", "weight_decay=0:0.3")
OURS = ("here", "dispatched")
RESULT = Path(__file__).parent / "results" / "tune.json"


def work(params: dict[str, Any], told: Callable[[int, float], object]) -> float:
    """Take 100 ms, and return a value that hangs on the parameters."""
    value = sum(float(number) for number in params.values())
    for validation in range(1, VALIDATIONS + 1):
        time.sleep(WORK_S / VALIDATIONS)
        told(validation, value / validation)
    return value


class Bare:
    """Optuna by itself."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
            sampler=TPESampler(multivariate=True, group=True, constant_liar=True, seed=plan.config.seed),
            pruner=NopPruner(),
        )
        self._study.enqueue_trial(dict(plan.default))

    def run(self) -> None:
        self._study.optimize(self._objective, n_trials=1)

    def _objective(self, trial: optuna.Trial) -> float:
        params = {
            "lr": trial.suggest_float("lr", 1e-5, 1e-2, log=True),
            "batch_size": trial.suggest_int("batch_size", 4, 64, log=True),
            "warmup_steps": trial.suggest_int("warmup_steps", 0, 100),
            "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.3),
        }

        def told(validation: int, value: float) -> None:
            trial.report(value, validation)
            trial.should_prune()

        return work(params, told)


class Here:
    """ampguard's trials in this process."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._trials = _trials(plan, folder)

    def run(self) -> None:
        trial = self._trials.begin()
        value = work(dict(trial.params), lambda at, value: self._trials.judge(trial, at, value))
        self._trials.end(trial, Result(state="complete", value=value))


def take_turns(plan: Plan, folders: Sequence[Path], trials: int) -> dict[str, list[float]]:
    """Return the seconds of each trial; the dispatched one runs between two questions whether another is wanted."""
    seconds: dict[str, list[float]] = {"bare": [], "here": [], "dispatched": []}
    others = {"bare": Bare(plan, folders[0]), "here": Here(plan, folders[1])}
    source = _trials(plan, folders[2])
    began: list[float] = []

    def wanted(planned: int) -> bool:
        if planned or not asked:
            asked.append(planned)
            return not planned
        if began:
            seconds["dispatched"].append(time.perf_counter() - began.pop())
        if len(seconds["dispatched"]) == trials:
            return False
        turn = len(seconds["dispatched"])
        for name in ("bare", "here") if turn % 2 == 0 else ("here", "bare"):
            start = time.perf_counter()
            others[name].run()
            seconds[name].append(time.perf_counter() - start)
        began.append(time.perf_counter())
        return True

    asked: list[int] = []
    command = [sys.executable, __file__, "--worker", str(folders[2])]
    with locked(folders[2], 0.0) as lock:
        Dispatcher(folders[2], source, lock=lock, command=command).run(1, wanted=wanted)
    return seconds


def _trials(plan: Plan, folder: Path) -> Trials:
    study = open_study(plan, folder)
    enqueue_default(study, plan)
    return Trials(study, plan, Watch())


def be_a_worker(folder: Path) -> int:
    """Answer like a worker whose trials take 100 ms."""

    worker.load_job = lambda folder: folder
    worker.run_trial = lambda _job, _number, params, judge: Result(state="complete", value=work(params, judge))
    return worker.main(folder)


def make_task() -> ampguard.Task:
    data = torch.utils.data.TensorDataset(torch.zeros(96, 2), torch.zeros(96))
    return ampguard.Task(
        name="sleep",
        model=lambda: torch.nn.Linear(2, 1),
        loss=lambda model, batch: model(batch[0]).mean(),
        train_data=data,
        val_data=data,
        defaults={"steps": 500, "lr": 1e-3, "batch_size": 16, "precision": "fp32"},
    )


def measure(trials: int) -> dict[str, Any]:
    """Return the record."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    before = os.getloadavg()[0]
    plan = make_plan(make_task, {}, make_config({"space": SPACE, "pruner": "none", "trials": trials}))
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        seconds = take_turns(plan, folders, trials)
    bare = seconds["bare"]
    middle = statistics.median(bare)
    over = {name: [ours - base for ours, base in zip(seconds[name], bare, strict=True)] for name in OURS}
    overhead = {name: 100 * statistics.median(values) / middle for name, values in over.items()}
    return {
        "schema": 1,
        "what": f"{trials} trials of {WORK_S * 1e3:g} ms of work each, over bare Optuna: same sampler, same storage",
        "command": f"python benchmarks/tune.py --trials {trials}",
        "overhead_pct": {name: round(value, 3) for name, value in overhead.items()},
        "limit_pct": LIMIT_PCT,
        "met": all(value < LIMIT_PCT for value in overhead.values()),
        "overhead_of_sums_pct": {name: round(100 * (sum(seconds[name]) / sum(bare) - 1), 3) for name in OURS},
        "trial_ms": {name: _summary(values) for name, values in seconds.items()},
        "over_bare_ms": {name: _summary(values) for name, values in over.items()},
        "versions": {
            "ampguard": ampguard.__version__, "optuna": optuna.__version__, "python": platform.python_version(),
        },
        "device": f"{inspect('cpu').name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "load_average_1min": [round(before, 2), round(os.getloadavg()[0], 2)],
    }  # fmt: skip


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    low, middle, high = (1e3 * value for value in statistics.quantiles(seconds, n=4))
    return {"median": round(middle, 3), "iqr": round(high - low, 3), "n": len(seconds)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        return be_a_worker(given.worker)
    record = measure(given.trials)
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(f"overhead over bare Optuna, %: {record['overhead_pct']}\n")
    return 0 if record["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
