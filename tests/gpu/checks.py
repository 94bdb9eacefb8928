"""The list of checks that `make gpu-check` makes, in order, each with what it needs.

A check is a name and a function of the device and a scratch folder that returns figures. A precision that the device
lacks, and a package that this python lacks, are reasons to skip it; on a CPU, where the list runs at a tiny size to
test itself, what can be emulated is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import figures
import run_checks
import step_checks
import torch
from run_checks import RunSizes

from ampguard.hardware import inspect

STEP_PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed")
RUN_PRECISIONS = ("tf32", "bf16-mixed", "fp16-mixed")
TIMED_PRECISIONS = ("fp32", "tf32", "bf16-mixed", "fp16-mixed")
PACKAGES = {"digits": "sklearn"}
"""What a Task needs beside torch."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check."""

    name: str
    run: Callable[[torch.device, Path], dict[str, Any]]
    precision: str = "fp32"
    package: str = ""

    def reason_to_skip(self, device: torch.device) -> str:
        """Return why this check cannot be made here; "" if it can."""
        if self.package and find_spec(self.package) is None:
            return f"this python has no {self.package}"
        fact = inspect(device).support(self.precision)
        fine = ("native", "emulated") if device.type == "cpu" else ("native",)
        return "" if fact.support in fine else f"{self.precision} is {fact.support} here: {fact.source}"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is run. The defaults are the GPU's."""

    runs: RunSizes = field(default_factory=RunSizes)
    blocks: int = 50
    subjects: tuple[Callable[[torch.device], figures.Subject], ...] = (figures.mlp, figures.gpt)


TINY = Sizes(
    runs=RunSizes(
        train={
            "text": {"steps": 4, "batch_size": 2, "init_scale": 1024.0},
            "digits": {"steps": 4, "batch_size": 8, "init_scale": 1024.0},
        },
        task={"text": {"context": 16}},
        resume={"steps": 5, "batch_size": 4, "init_scale": 1024.0},
        cut_at=3,
        learns=False,
    ),
    blocks=2,
    subjects=(
        partial(figures.mlp, steps_per_block=2),
        partial(figures.gpt, steps_per_block=1, size="tiny", context=16),
    ),
)
"""For a CPU: the logic of every check, and no figure worth keeping."""


def checks(sizes: Sizes) -> Iterator[Check]:
    """Yield every check, the quick ones first."""
    yield Check(name="no_sync/net", run=lambda device, folder: step_checks.check_net(device))
    yield Check(name="parity", run=lambda device, folder: step_checks.check_parity(device), precision="fp16-mixed")
    for precision in STEP_PRECISIONS:
        yield _step_check("exact_skips", step_checks.check_exact_skips, precision)
        yield _step_check("no_sync", step_checks.check_no_sync, precision)
    for task in ("text", "digits"):
        for precision in STEP_PRECISIONS:
            yield _run_check("resume", run_checks.check_resume, task, precision, sizes)
        for precision in RUN_PRECISIONS:
            yield _run_check("train", run_checks.check_train, task, precision, sizes)
    for make in sizes.subjects:
        for precision in TIMED_PRECISIONS:
            yield _figure(make, precision, sizes)


def _step_check(name: str, check: Callable[..., dict[str, Any]], precision: str) -> Check:
    return Check(name=f"{name}/{precision}", run=lambda device, folder: check(device, precision), precision=precision)


def _run_check(name: str, check: Callable[..., dict[str, Any]], task: str, precision: str, sizes: Sizes) -> Check:
    return Check(
        name=f"{name}/{task}/{precision}",
        run=lambda device, folder: check(device, task, precision, folder, sizes.runs),
        precision=precision,
        package=PACKAGES.get(task, ""),
    )


def _figure(make: Callable[[torch.device], figures.Subject], precision: str, sizes: Sizes) -> Check:
    named = make.func if isinstance(make, partial) else make
    return Check(
        name=f"overhead/{named.__name__}/{precision}",
        run=lambda device, folder: figures.measure(device, make(device), precision, sizes.blocks),
        precision=precision,
    )
