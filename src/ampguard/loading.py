"""What a run left, opened again: its model, ready to be used."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ampguard.checkpointing import CheckpointStore, capture_rng, restore_model, restore_rng
from ampguard.engine.fallback import Fallbacks
from ampguard.errors import CheckpointError, ConfigError
from ampguard.hardware import inspect, pick_device
from ampguard.precision import Decision, grant_overrides, parse_overrides
from ampguard.run_folder import read_run
from ampguard.task import Task
from ampguard.tasks import find_task


def load_model(
    run_dir: str | Path,
    *,
    task: Task | None = None,
    which: Literal["best", "latest"] | int = "best",
    averaged: bool | None = None,
    device: str | None = "cpu",
) -> nn.Module:
    """Return the model of a run with its trained weights, in eval mode.

    Args:
        run_dir: The run folder.
        task: Builds the model; None: the Task that the folder names, with the options that it was built with.
        which: The checkpoint with the best `monitor` (the latest, if there was no validation), the latest, or a step.
        averaged: Whether to take the moving average of the weights; None: if the run kept one, as its validation did.
        device: Where to put it; None: the accelerator, if there is one.

    Returns:
        A fresh model, stored as the run stored it; a module with an override keeps it. The global random numbers are as
        they were.

    Raises:
        RunFolderError: `run_dir` is no run folder.
        CheckpointError: There is no such checkpoint, it is damaged, or it is of another model.
        ConfigError: The Task was given in Python and `task` is missing, or there is no average.
    """
    path = Path(run_dir)
    facts = read_run(path)
    state = _state(CheckpointStore(path / "checkpoints"), which)
    target = pick_device(device)
    rng = capture_rng()
    try:
        model = (task or _task_of(path, facts["task"])).model()
    finally:
        restore_rng(rng)
    _store_as_trained(model, facts, state["guard"], target)
    restore_model(state, model)
    _take_average(model, state["guard"].get("ema", {}), averaged)
    return model.to(target).eval()


def _store_as_trained(model: nn.Module, facts: dict[str, Any], guard: dict[str, Any], device: torch.device) -> None:
    """Give the model the run's storage dtypes, and its modules the precision that they had in the end."""
    first = Decision(**{name: facts["precision"][name] for name in ("requested", "granted", "reason")})
    overrides, on_unsupported = parse_overrides(facts["config"].get("override", ())), facts["config"]["on_unsupported"]
    granted = grant_overrides(overrides, first.policy, inspect(device), on_unsupported=on_unsupported)
    fallbacks = Fallbacks(model, first, granted, device.type)
    fallbacks.take(fallbacks.of_state(first.granted, guard.get("fallbacks", ())))


def _state(store: CheckpointStore, which: Literal["best", "latest"] | int) -> dict[str, Any]:
    if isinstance(which, int):
        return store.load(which)
    if which not in ("best", "latest"):
        raise ConfigError(f"which is {which!r}.", allowed=("best", "latest", "a step"))
    path = store.pointed("best") if which == "best" else None
    if path is not None:
        return store.load(path)
    newest = store.newest_valid()
    if newest is None:
        raise CheckpointError(f"{store.folder} has no valid checkpoint.", hint="Train for longer, or resume the run.")
    return newest.state


def _task_of(path: Path, origin: dict[str, Any]) -> Task:
    if "target" not in origin:
        raise ConfigError(
            f"the Task of {path} was given in Python, and a folder cannot name it.",
            hint="Pass it: load_model(run_dir, task=task).",
        )
    return find_task(origin["target"])(**origin.get("options", {}))


def _take_average(model: nn.Module, averages: dict[str, torch.Tensor], wanted: bool | None) -> None:
    if wanted and not averages:
        raise ConfigError("averaged is True, but the run kept no average of its weights.", hint="Train with ema=0.999.")
    if wanted is False:
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for fqn, average in averages.items():
            parameters[fqn].copy_(average)
