"""A search: one study, its folder, its trials, and what came of them."""

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, Literal

import optuna

from ampguard.errors import InputError
from ampguard.reporting.study import write_study_report
from ampguard.tuning.best import command, write_best
from ampguard.tuning.dispatch import Dispatcher
from ampguard.tuning.folder import write, write_start
from ampguard.tuning.importance import importance
from ampguard.tuning.job import Job
from ampguard.tuning.lock import PATIENCE_S, locked
from ampguard.tuning.objective import Stopped, run_trial
from ampguard.tuning.outcome import best_of, default_of, lost_in, records_of, verdict
from ampguard.tuning.plan import Plan
from ampguard.tuning.report import TuneReport
from ampguard.tuning.study import enqueue_default, open_study, settle
from ampguard.tuning.trials import Trials
from ampguard.tuning.watch import Opening, Watch

log = logging.getLogger("ampguard.tuning")


class Search:
    """One search: its folder, its trials, its result.

    Args:
        plan: What it is going to do.
        job: What its trials share.
        watch: Shows it.
        asked: Its options as they were given, for whoever gives them again beside resume.
    """

    def __init__(self, plan: Plan, job: Job, watch: Watch, *, asked: Mapping[str, Any]) -> None:
        self._plan, self._job, self._watch, self._asked = plan, job, watch, asked
        self._began = perf_counter()
        self._status: Literal["finished", "interrupted", "preempted"] = "finished"

    def run(self) -> TuneReport:
        """Search, and write what came of it into the study folder."""
        config, folder = self._plan.config, self._job.folder
        with locked(folder, PATIENCE_S if config.resume else 0.0) as lock:
            study = open_study(self._plan, folder)
            if not config.resume:
                self._write_start()
            settle(study, "its search was killed", died=True)
            enqueue_default(study, self._plan)
            self._watch.start(self._opening(study))
            try:
                with _terminable():
                    self._search(Trials(study, self._plan, self._watch), lock)
            except Stopped as stopped:
                self._stopped(study, stopped.status)
            except KeyboardInterrupt:
                self._stopped(study, "interrupted")
            finally:
                self._watch.stop()
            return self._finish(study)

    def _write_start(self) -> None:
        job, config = self._job, self._plan.config
        target = {} if job.origin.get("target") is None else {"target": job.origin["target"]}
        facts = {"task": self._plan.task.name, **target, "asked": self._asked, "config": config.as_dict()}
        write_start(job.folder, {**facts, "task_options": job.task_options})

    def _opening(self, study: optuna.Study) -> Opening:
        return Opening(
            task=self._plan.task.name,
            config=self._plan.config,
            validations=self._plan.validations,
            folder=str(self._job.folder),
            warnings=self._plan.warnings,
            before=records_of(study),
        )

    def _search(self, trials: Trials, lock: int) -> None:
        config = self._plan.config
        limit = config.timeout_s()

        def wanted(planned: int) -> bool:
            in_time = limit is None or perf_counter() - self._began < limit
            return in_time and trials.count() + planned < config.trials

        if config.workers > 1:
            self._job.save()
            Dispatcher(self._job.folder, trials, lock=lock).run(config.workers, wanted=wanted)
            return
        while wanted(0):
            trial = trials.begin()
            judge = partial(trials.judge, trial)
            trials.end(trial, run_trial(self._job, trial.number, trial.params, judge))

    def _stopped(self, study: optuna.Study, status: Literal["interrupted", "preempted"]) -> None:
        self._status = status
        settle(study, f"it was {status}", died=False)

    def _finish(self, study: optuna.Study) -> TuneReport:
        report = self._report(study)
        text = json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n"
        write(self._job.folder / "study.json", text)
        try:
            write_study_report(self._job.folder)
        except InputError as error:
            log.warning("the search is done, but its report.html could not be written: %s", error)
        return report

    def _report(self, study: optuna.Study) -> TuneReport:
        plan, job, records = self._plan, self._job, records_of(study)
        config = plan.config
        best, default = best_of(records, config.direction), default_of(records)
        file = None if best is None else write_best(job, best, config.metric)
        return TuneReport(
            task=plan.task.name,
            metric=config.metric,
            direction=config.direction,
            trials=records,
            best=best,
            default_value=None if default is None else default.value,
            importance=importance(study, [parameter.name for parameter in plan.space], seed=config.seed),
            study_dir=str(job.folder),
            status=self._status,
            verdict=verdict(best, default, config.metric),
            best_config=None if file is None else str(file),
            command=None if file is None else command(job, file),
            resume_command=self._resume_command(),
            space=config.space,
            settings=config.as_dict(),
            lost=lost_in(study),
            warnings=plan.warnings,
            wall_s=perf_counter() - self._began,
        )

    def _resume_command(self) -> str | None:
        target = self._job.origin.get("target")
        if self._status == "finished" or target is None:
            return None
        return f"ampguard tune {target} --resume --out {self._job.folder}"


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM end a search as Ctrl-C does, between trials and while it waits for workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Stopped("preempted")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
