"""One trial: a Task trained with its parameters, ended early where it is told to. Knows no Optuna."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from ampguard.errors import AmpguardError, InputError
from ampguard.task import Task
from ampguard.tasks.load import users_code
from ampguard.training.callbacks import Callback, StepEnd
from ampguard.training.progress import NullProgress
from ampguard.training.run import train
from ampguard.tuning.job import Job
from ampguard.tuning.space import split_params

Judge = Callable[[int, float], bool]
"""(validation, value) -> whether the trial is to end here. Validations count from 1."""

StopStatus = Literal["interrupted", "preempted"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a trial ended."""

    state: Literal["complete", "pruned", "failed"]
    value: float | None = None
    """The metric at its last validation; None for one that failed."""
    reason: str = ""
    """Why it failed or was ended early."""
    run_dir: str = ""
    wall_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class Stopped(KeyboardInterrupt):
    """Somebody asked the whole search to stop, in mid-trial: that is no result, and nothing catches it as an error.

    Args:
        status: By Ctrl-C, or by SIGTERM.
    """

    def __init__(self, status: StopStatus) -> None:
        super().__init__(status)
        self.status = status


class Watching(Callback):
    """Tells the judge of each validation, and stops the run at the boundary where it says so.

    Args:
        metric: The one that is searched by.
        judge: Decides.
    """

    def __init__(self, metric: str, judge: Judge) -> None:
        self._metric, self._judge = metric, judge
        self._stop: Callable[[str], None] = lambda _: None
        self._validations = 0
        self.value: float | None = None
        """The metric at the last validation; it may be inf or NaN."""
        self.stopped = False

    def on_step_end(self, state: StepEnd) -> None:
        """Keep what stops the run: a validation comes after this, at the same boundary."""
        self._stop = state.stop

    def on_validation_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Have the value judged; one that is not finite needs no judge."""
        del step
        if self._metric not in metrics:
            return
        self._validations += 1
        self.value = metrics[self._metric]
        self.stopped = not math.isfinite(self.value) or self._judge(self._validations, self.value)
        if self.stopped:
            self._stop(f"the search ended it after validation {self._validations}")


def run_trial(job: Job, number: int, params: Mapping[str, Any], judge: Judge) -> Result:
    """Train with these parameters; whatever the run comes to, it is a result.

    Raises:
        Stopped: The process was asked to stop.
    """
    options, own = split_params(params)
    own = {**job.task_options, **own}
    run_dir = job.run_dir(number)
    watching = Watching(job.metric, judge)
    began = perf_counter()
    try:
        record = train(
            _build(job.build, own),
            origin={**job.origin, "options": own} if job.origin else None,
            progress=NullProgress(),
            callbacks=[watching],
            **{**job.options, **options, "out": run_dir},
        )
    except AmpguardError as error:
        # Wrong input says what is allowed; what a failed run says besides is how to go on, and a trial does not.
        reason = str(error) if isinstance(error, InputError) else error.message
        return Result(state="failed", reason=reason, run_dir=str(run_dir), wall_s=perf_counter() - began)
    except SystemExit as error:
        reason = f"the user's code left by sys.exit({error.code!r})"
        return Result(state="failed", reason=reason, run_dir=str(run_dir), wall_s=perf_counter() - began)
    if record.status in ("interrupted", "preempted"):
        raise Stopped("interrupted" if record.status == "interrupted" else "preempted")
    ended_early = record.status == "stopped_early" and watching.stopped
    return _judged(job.metric, watching.value, ended_early, run_dir, perf_counter() - began)


def _build(build: Callable[..., Task], options: Mapping[str, Any]) -> Task:
    with users_code("building the Task", Path.cwd()):
        return build(**options)


def _judged(metric: str, value: float | None, ended_early: bool, run_dir: Path, wall_s: float) -> Result:
    if value is None:
        return Result(state="failed", reason=f"its validations gave no {metric!r}", run_dir=str(run_dir), wall_s=wall_s)
    if not math.isfinite(value):
        return Result(state="failed", reason=f"{metric} went to {value}", run_dir=str(run_dir), wall_s=wall_s)
    if ended_early:
        reason = "worse than the others by its validations"
        return Result(state="pruned", value=value, reason=reason, run_dir=str(run_dir), wall_s=wall_s)
    return Result(state="complete", value=value, run_dir=str(run_dir), wall_s=wall_s)
