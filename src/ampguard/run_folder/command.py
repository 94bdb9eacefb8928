"""The command that trains a run's Task again, for a person to copy."""

import shlex
from collections.abc import Mapping
from typing import Any


def train_command(task: Mapping[str, Any]) -> str:
    """Return `ampguard train TARGET` with the Task's own options, quoted for a shell.

    Args:
        task: {"target", "options"}, as run.toml has them; without a target, that of a Task given in Python,
            PATH:build stands for it.
    """
    words = ["ampguard", "train", str(task.get("target", "PATH:build"))]
    for name, value in (task.get("options") or {}).items():
        flag = name.replace("_", "-")
        words += (
            [f"--task.{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--task.{flag}", str(value)]
        )
    return shlex.join(words)
