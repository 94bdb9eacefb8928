"""What must hold of whole runs on a device: both built-in Tasks learn in each precision, and resume bit for bit."""

import json
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from step_checks import require
from torch import Tensor, nn

import ampguard
from ampguard.tasks import find_task

CLOCKED = ("time/", "throughput/", "memory/")
"""Columns of metrics.jsonl that a clock or an allocator decides."""


@dataclass(frozen=True, kw_only=True)
class RunSizes:
    """How long the runs are. The defaults are the GPU's."""

    train: dict[str, dict[str, Any]] = field(default_factory=lambda: {"text": {"steps": 300}, "digits": {}})
    """Training options of the run that learns; without `steps` the Task's own."""
    task: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of the Tasks."""
    resume: dict[str, Any] = field(default_factory=lambda: {"steps": 40})
    cut_at: int = 23
    """The step in which the resumed run was interrupted: not a multiple of anything."""
    learns: bool = True
    """Whether the runs are long enough that what they learned is judged."""


def check_train(device: torch.device, task: str, precision: str, folder: Path, sizes: RunSizes) -> dict[str, Any]:
    """Train a built-in Task in a precision and judge what it learned."""
    built = find_task(task)(**sizes.task.get(task, {}))
    options = {"device": str(device), "precision": precision, "on_unsupported": _strictly(device)}
    record = ampguard.train(built, out=folder / f"{task}-{precision}", **options, **sizes.train[task])
    granted = record.precision.granted
    require(granted == precision, f"{precision} was asked for and {granted} granted: {record.precision.reason}")
    require(record.status == "finished", f"the run is {record.status}")
    steps = record.steps
    require(steps.applied > 0, f"no step of {steps.attempted} was applied")
    if sizes.learns:
        _judge(task, record)
    return {
        "steps": {"attempted": steps.attempted, "applied": steps.applied, "skipped": steps.skipped},
        "final": dict(record.final),
        "loss_scale": record.loss_scale,
        "samples_per_s": record.samples_per_s,
        "wall_s": record.wall_s,
    }


def _strictly(device: torch.device) -> str:
    return "emulate" if device.type == "cpu" else "error"


def _judge(task: str, record: Any) -> None:
    final = record.final
    if task == "text":
        bar = min(3.0, record.info["unigram_entropy_val"])
        require(final["val/loss"] < bar, f"val/loss {final['val/loss']:.3f} is not below {bar:.3f}")
    else:
        require(final["val/accuracy"] >= 0.97, f"val/accuracy is {final['val/accuracy']:.3f}, not 0.97")


class Interrupting:
    """A Task's loss that asks the run to stop, as Ctrl-C does, in its n-th training forward."""

    def __init__(self, loss: Any, at: int) -> None:
        self.loss, self.left = loss, at

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        if torch.is_grad_enabled():
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self.loss(model, batch)


def check_resume(device: torch.device, task: str, precision: str, folder: Path, sizes: RunSizes) -> dict[str, Any]:
    """Interrupt a run, resume it, and compare rows and weights with the run that was left alone, bit for bit."""
    built = find_task(task)(**sizes.task.get(task, {}))
    cut_short = replace(built, loss=Interrupting(built.loss, sizes.cut_at))
    whole, cut = (folder / f"resume-{task}-{precision}-{kind}" for kind in ("whole", "cut"))
    options = {
        "device": str(device),
        "precision": precision,
        "on_unsupported": _strictly(device),
        "log_every": 1,
        "deterministic": True,
        **sizes.resume,
    }
    try:
        ampguard.train(built, out=whole, **options)
        first = ampguard.train(cut_short, out=cut, **options)
        second = ampguard.train(built, out=cut, resume="auto", **options)
    finally:
        torch.use_deterministic_algorithms(False)
    require(first.status == "interrupted", f"the run to cut is {first.status}")
    require(second.resumed_from == first.steps.attempted, f"resumed from {second.resumed_from}")
    return {"resumed_from": second.resumed_from, **_compare(whole, cut)}


def _compare(whole: Path, cut: Path) -> dict[str, Any]:
    right, found = _rows(whole), _rows(cut)
    different = [row["step"] for row, other in zip(right, found, strict=False) if row != other]
    require(len(right) == len(found), f"{len(found)} rows instead of {len(right)}")
    require(not different, f"rows of steps {different[:5]} differ")
    weights, others = _weights(whole), _weights(cut)
    unequal = [name for name, weight in weights.items() if not torch.equal(weight, others[name])]
    require(not unequal, f"weights differ: {', '.join(unequal[:5])}")
    return {"rows_compared": len(right), "tensors_compared": len(weights)}


def _rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(CLOCKED)} for line in lines]


def _weights(run: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    latest = (run / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
    return load_file(run / "checkpoints" / latest / "model.safetensors")
