"""`tune`: from a Task and a space to the best configuration, and whether it beats the default."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ampguard.errors import MissingExtraError, TaskError
from ampguard.task import Task
from ampguard.tuning.config import make_config
from ampguard.tuning.folder import make_folder, take_over
from ampguard.tuning.job import Job
from ampguard.tuning.plan import make_plan
from ampguard.tuning.report import TuneReport
from ampguard.tuning.watch import Watch

if TYPE_CHECKING:
    from ampguard.tuning.search import Search


def tune(
    task: Task | None = None,
    *,
    build: Callable[..., Task] | None = None,
    task_options: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> TuneReport:
    """Search for the best configuration of a Task.

    Args:
        task: What to train.
        build: Instead of `task`: what builds it; then its options can be searched, as task.OPTION.
        task_options: Given to `build` in every trial, under what is searched.
        origin: How to find the Task again: {"target"}, as the command line names it.
        watch: Shows the search; None: nothing is shown.
        options: Fields of TuneConfig: trials, space, metric, workers ...

    Raises:
        InputError: What was given cannot work, or Optuna is not installed; no trial was begun.
        RunError: A worker process cannot start.
    """
    if (task is None) == (build is None):
        raise TaskError("tune takes a Task, or build, which makes one.", hint="tune(build()) or tune(build=build).")
    maker: Callable[..., Any] = build if build is not None else lambda: task
    origin, task_options = dict(origin or {}), dict(task_options or {})
    asked = config = make_config(options)
    if config.resume:
        given = {name: value for name, value in config.as_dict().items() if options.get(name) is not None}
        stored, task_options = take_over(given, task_options, origin.get("target"))
        config = make_config(stored)
    search = _engine()
    plan = make_plan(maker, task_options, config)
    path = make_folder(config.out, plan.task.name, resume=config.resume)
    job = Job(
        folder=path,
        build=maker,
        task_options=task_options,
        options={**plan.options, "group": path.resolve().name},
        origin=origin,
        metric=config.metric,
    )
    return search(plan, job, watch or Watch(), asked=asked.as_dict()).run()


def _engine() -> "type[Search]":
    """Return the search, where Optuna is installed."""
    try:
        from ampguard.tuning.search import Search
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "optuna", "tune", "tune") from error
    return Search
