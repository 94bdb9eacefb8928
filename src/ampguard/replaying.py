"""A replay bundle, opened and run again: the bundle and the Task that it is of come together here.

A bundle names a Task, and building a Task runs code. So a bundle is taken at its word only for the built-in Tasks, and
for what the `run.toml` of the run folder that it lies in names, too: as far as `resume` trusts that folder. For any
other, whoever asks has to name the Task.
"""

from pathlib import Path
from typing import Any

from ampguard.errors import ConfigError, RunFolderError
from ampguard.health.bundle import Bundle, read_bundle
from ampguard.run_folder import read_run
from ampguard.task import Task
from ampguard.tasks import find_task
from ampguard.tasks.find import builtin_names
from ampguard.tasks.load import users_code
from ampguard.training.replay import RERUN
from ampguard.training.replay import replay as run_again
from ampguard.training.replay_answer import Replay


def replay(
    path: str | Path, *, task: Task | None = None, target: str | None = None, device: str | None = None,
    rerun: int = RERUN,
) -> Replay:  # fmt: skip
    """Run the step of a replay bundle again, in its precision and in fp32 beside it.

    Global generators, modes and the run folder are left as they were.

    Args:
        path: The bundle's folder: runs/NAME/replay/step-00000120.
        task: The run's Task; None: the one that the bundle names.
        target: How to find the Task, with the options that the bundle tells; None: as the bundle names it.
        device: Where; None: the kind of device that the run was on, if this machine has one.
        rerun: Most steps to run again to reach the exact weights.

    Raises:
        BundleError: It is no bundle, is damaged, or of a newer schema.
        CheckpointError: There are no weights to start from.
        TaskError: The Task is not there, or raised.
        ConfigError: The Task was given in Python, or may not be run at the bundle's word.
    """
    bundle = read_bundle(Path(path))
    if rerun < 0:
        raise ConfigError(f"rerun is {rerun}; it must be an integer >= 0.")
    built = task or _task_of(bundle, target)
    with users_code(f"the step of the Task '{built.name}'", Path.cwd()):
        return run_again(bundle, built, device=device, rerun=rerun)


def _task_of(bundle: Bundle, target: str | None) -> Task:
    told = bundle.fact("task", dict)
    options = told.get("options") or {}
    options = options if isinstance(options, dict) else {}
    if target is not None:
        return find_task(target)(**options)
    named = told.get("target")
    if not isinstance(named, str):
        raise ConfigError(
            f"the Task of bundle {bundle.path} was given in Python, and a bundle cannot name it.",
            hint="Pass it: ampguard.replaying.replay(path, task=task), or on the command line --target PATH:build.",
        )
    if named not in builtin_names() and not _runs_it(bundle, named, options):
        raise ConfigError(
            f"bundle {bundle.path} names the Task {named!r}, which is code, and does not lie in the folder of a run "
            "of it.",
            hint=f"If you trust that code, say so: --target {named}",
        )
    return find_task(named)(**options)


def _runs_it(bundle: Bundle, named: str, options: dict[str, Any]) -> bool:
    """Return whether the run folder around the bundle names the same Task."""
    try:
        origin = read_run(bundle.path.resolve().parents[1])["task"]
    except (RunFolderError, IndexError, KeyError):
        return False
    return bool(origin.get("target") == named and origin.get("options", {}) == options)
