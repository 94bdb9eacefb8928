"""best.toml: the best trial's configuration, which `ampguard train --config` trains to the same value."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import tomli_w

from ampguard.training.config import TrainConfig
from ampguard.tuning.folder import write
from ampguard.tuning.job import Job
from ampguard.tuning.report import TrialRecord
from ampguard.tuning.space import split_params

FILE: Final = "best.toml"

LEFT_OUT: Final = ("report", "track", "group", "on_collapse", "on_unsupported")
"""Options of a trial that do not belong to its configuration: they decide where a run is seen, and how it fails."""


def write_best(job: Job, best: TrialRecord, metric: str) -> Path:
    """Write the file into the study folder; return its path."""
    options, own = split_params(best.params)
    known = {field.name for field in fields(TrainConfig)} - set(LEFT_OUT)
    values = {name: value for name, value in {**job.options, **options}.items() if name in known}
    task = {name: value for name, value in {**job.task_options, **own}.items() if value is not None}
    heading = f"# Trial {best.number} of the study {job.folder.name}: {metric} {best.value!r}\n"
    write(job.folder / FILE, heading + tomli_w.dumps({**_plain(values), **({"task": _plain(task)} if task else {})}))
    return job.folder / FILE


def command(job: Job, path: Path) -> str | None:
    """Return what trains the best configuration again; None for a Task that was given in Python."""
    target = job.origin.get("target")
    return None if target is None else f"ampguard train {target} --config {path}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
