"""`bench`: from a Task to a verdict. Measures speed, memory and accuracy of what can run, and says what to use."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

from ampguard.benchmarking.against import check_same_task, compare, read_bench
from ampguard.benchmarking.assemble import Found, make_trial
from ampguard.benchmarking.budget import LARGEST_SHARE, MEMORY_SHARE, SPEED_SHARE
from ampguard.benchmarking.config import BenchConfig, make_config
from ampguard.benchmarking.environment import environment
from ampguard.benchmarking.lineup import line_up, settled
from ampguard.benchmarking.memory import MemoryStage, device_limit_mib
from ampguard.benchmarking.page import leave_page
from ampguard.benchmarking.parity_runs import InterruptedBenchError, ParityRuns
from ampguard.benchmarking.protocol import Timings
from ampguard.benchmarking.race import run_race
from ampguard.benchmarking.report import BenchReport, Trial
from ampguard.benchmarking.require import parse_requirements
from ampguard.benchmarking.state import open_state
from ampguard.benchmarking.tracked import send, write_run
from ampguard.benchmarking.verdict import noise_warnings, recommend
from ampguard.benchmarking.watch import SilentWatch, Watch
from ampguard.errors import RunError, RunFolderError, TaskError
from ampguard.precision.autocast import kept_math_mode
from ampguard.task import Task
from ampguard.tracking import find_tracker
from ampguard.training.folder import RunFolder, fresh_path


def bench(
    task: Task, *, origin: Mapping[str, Any] | None = None, watch: Watch | None = None, **options: Any
) -> BenchReport:
    """Compare precisions on a Task: speed, memory and accuracy, with a recommendation.

    Args:
        task: What to train.
        origin: How to find the Task again: {"target", "options"}, as the command line names it.
        watch: Shows the bench; None: nothing is shown.
        options: Fields of BenchConfig: precisions, budget, seeds ...

    Raises:
        InputError: What was given cannot work; nothing was measured.
        RunError: Every precision fails.
    """
    if not isinstance(task, Task):
        raise TaskError(f"bench got a {type(task).__name__}, not a Task.", hint="Call what builds it: bench(build()).")
    return Bench(task, settled(make_config(options)), origin=origin or {}, watch=watch or SilentWatch()).run()


class Bench:
    """One bench: its folder, its stages, its report."""

    def __init__(self, task: Task, config: BenchConfig, *, origin: Mapping[str, Any], watch: Watch) -> None:
        self.began, self.budget_s = perf_counter(), config.budget_s()
        self._config, self._origin, self._watch = config, origin, watch
        self._requirements = parse_requirements(config.require, config.precisions)
        self._old = None if config.against is None else read_bench(config.against)
        if self._old is not None and config.against is not None:
            check_same_task(self._old, task.name, path=config.against)
        for name in config.track:
            find_tracker(name)
        self.lineup = line_up(task, config)
        self.path = _folder(config, task)
        self._state = open_state(self.path / "bench-state.json", self._settings(), resume=config.resume)
        self._memory = MemoryStage(self.lineup, self._state, told=watch.stage)
        self._parity = ParityRuns(self.lineup, config, self._state, folder=self.path / "parity", origin=origin)

    def _settings(self) -> dict[str, Any]:
        """Return what decides whether work that was done before is of use."""
        config, training = self._config, self.lineup.training
        return {
            "task": self.lineup.task.name,
            "options": {name: str(value) for name, value in self._origin.get("options", {}).items()},
            "device": self.lineup.hardware.label,
            "precisions": config.precisions,
            "baseline": config.baseline,
            "on_unsupported": config.on_unsupported,
            "blocks": config.blocks,
            "parity_steps": config.parity_steps,
            "memory_limit": config.memory_limit,
            "seed": config.seed,
            "compile": config.compile,
            "batch_size": training.batch_size,
            "micro_batch_size": training.micro_batch_size,
        }

    def left_s(self) -> float:
        """Return the seconds that are left of the budget."""
        return self.budget_s - (perf_counter() - self.began)

    def run(self) -> BenchReport:
        """Measure, judge, and write `bench.json` and its page.

        Ctrl-C ends the stage that it meets; what is finished is kept, reported, and not measured again by --resume.
        """
        interrupted = False
        with closing(RunFolder(self.path)) as folder, kept_math_mode(self.lineup.device):
            self._watch.start(self)
            try:
                self._measure()
            except (KeyboardInterrupt, InterruptedBenchError):
                interrupted = True
            finally:
                self._state.save()
                self._watch.stop()
            report = self._report(interrupted=interrupted)
            self._write(report)
            write_run(report, folder)
            leave_page(self.path)
            send(report, () if interrupted else self._config.track, folder)
        return report

    def _measure(self) -> None:
        """Go through the stages: speed, memory, accuracy."""
        race = self._state.race
        run_race(
            self.lineup, race, blocks=self._config.blocks, budget_s=SPEED_SHARE * self.budget_s, told=self._tell_speed
        )
        self._state.save()
        running = [name for name in self.lineup.decisions if name not in race.failures]
        if not running:
            every = "; ".join(f"{name}: {reason}" for name, reason in race.failures.items())
            raise RunError(f"nothing could be measured, for every precision fails. {every}.", hint=self._hint())
        self._memory.footprints(running, budget_s=MEMORY_SHARE * self.budget_s)
        limit = self._limit_mib()
        if limit is not None:
            self._memory.largest(running, limit_mib=limit, budget_s=LARGEST_SHARE * self.budget_s)
        self._parity.make_plan(left_s=self.left_s())
        self._parity.train(left_s=self.left_s, told=self._watch.parity)

    def _tell_speed(self, stage: str, timings: Timings) -> None:
        self._watch.speed(stage, timings, self._config.blocks)

    def _limit_mib(self) -> float | None:
        asked = self._config.memory_limit_mib()
        return device_limit_mib(self.lineup.device) if asked is None else asked

    def _hint(self) -> str:
        if "target" not in self._origin:
            return f"See it alone: ampguard.train(task, precision={self._config.baseline!r}, steps=10)."
        return f"See it alone: ampguard train {self._origin['target']} --precision {self._config.baseline} --steps 10"

    def _report(self, *, interrupted: bool) -> BenchReport:
        config, lineup = self._config, self.lineup
        found = Found(
            config=config,
            lineup=lineup,
            state=self._state,
            plan=self._parity.plan,
            outcomes=self._parity.outcomes,
            memory_reasons=self._memory.reasons,
            largest_reason="" if self._limit_mib() is not None else "no memory limit was given (--memory-limit)",
        )
        trials = tuple(make_trial(name, found) for name in config.precisions)
        best = recommend(trials, config.baseline)
        report = BenchReport(
            task=lineup.task.name,
            device=lineup.hardware.label,
            baseline=config.baseline,
            settings=environment(lineup.training, lineup.device, baseline=config.baseline),
            trials=trials,
            recommendation=best,
            warnings=(*_interruption(interrupted), *noise_warnings(trials), *self._parity_warnings()),
            unmet=self._unmet(trials, best.precision),
            wall_s=perf_counter() - self.began,
            status="interrupted" if interrupted else "finished",
            out=str(self.path),
        )
        if self._old is None or config.against is None:
            return report
        return replace(report, against=compare(self._old, report.as_dict(), path=config.against))

    def _unmet(self, trials: Sequence[Trial], recommended: str) -> tuple[str, ...]:
        found = [
            item.failures(trials, recommended=recommended, baseline=self._config.baseline)
            for item in self._requirements
        ]
        return tuple(chain.from_iterable(found))

    def _parity_warnings(self) -> list[str]:
        plan, trained = self._parity.plan, self._parity.outcomes.get(self._config.baseline, {})
        if not plan.seeds:
            return []
        found = [f"accuracy: {plan.reason}."] if plan.reason else []
        if len(trained) < plan.seeds:
            found.append(f"accuracy: {len(trained)} of {plan.seeds} seeds were trained before the time was over.")
        return found

    def _write(self, report: BenchReport) -> None:
        text = json.dumps(report.as_dict() | {"command": self._origin}, indent=1, allow_nan=False)
        part = self.path / ".bench.json.part"
        part.write_text(text + "\n")
        part.replace(self.path / "bench.json")


def _interruption(interrupted: bool) -> list[str]:
    return ["it was interrupted: these are the figures of what was finished."] if interrupted else []


def _folder(config: BenchConfig, task: Task) -> Path:
    """Return the bench's folder; the one that was named must be empty, or be resumed."""
    out = config.out
    if out is None:
        return fresh_path(f"bench-{task.name}")
    if not config.resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"folder {out} exists already.", hint="Give another --out, or --resume to go on with it.")
    return out
