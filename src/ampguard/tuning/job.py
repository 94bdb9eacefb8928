"""What every trial of a study shares: how to make the Task, and how it is trained.

Worker processes find it in the study folder (cloudpickle: a Task is functions). A Task that was found by its name
travels by that name: the module of a .py file exists in this process only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from ampguard.errors import TaskError
from ampguard.task import Task
from ampguard.tasks import find_task
from ampguard.tasks.find import Builder

FILE = "job.pickle"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A study's trials, but for their parameters."""

    folder: Path
    """Of the study."""
    build: Callable[..., Task]
    task_options: Mapping[str, Any]
    """Given to `build` in every trial, under what is searched."""
    options: Mapping[str, Any]
    """Options of train in every trial, under what is searched."""
    origin: Mapping[str, Any]
    """How the Task is found: {"target"}; {} for one given in Python."""
    metric: str

    def save(self) -> None:
        """Write the job into its folder.

        Raises:
            TaskError: The Task cannot be sent to another process.
        """
        sent = replace(self, build=partial(_found, self.build.target)) if isinstance(self.build, Builder) else self
        try:
            data = cloudpickle.dumps(sent)
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise TaskError(
                f"the Task cannot be sent to a worker process: {error}.",
                hint="Give --workers 1, or name it as PATH:build.",
            ) from error
        (self.folder / FILE).write_bytes(data)

    def run_dir(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"


def load_job(folder: Path) -> Job:
    """Return the job that `Job.save` wrote into the study folder just now."""
    job: Job = cloudpickle.loads((folder / FILE).read_bytes())
    return job


def _found(target: str, **options: Any) -> Task:
    return find_task(target)(**options)
