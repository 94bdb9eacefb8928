"""The fresh process in which a precision's memory is measured: `python -m ampguard.benchmarking.worker FOLDER`.

The parent writes two files into a folder of its own: `imports.json`, the files that hold the user's code, and `job`,
pickled by cloudpickle, for a Task is functions. The answer is one JSON object, the last line of stdout; an error is
{"error": reason, "out_of_memory": bool}.
"""

import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from ampguard.benchmarking.contender import Contender
from ampguard.benchmarking.footprint import Footprint, KeptForBackward, PeakMeter, size_mib
from ampguard.benchmarking.race import reason_of
from ampguard.benchmarking.report import Memory
from ampguard.precision import Decision
from ampguard.task import Task
from ampguard.tasks.load import import_file
from ampguard.training.config import TrainConfig
from ampguard.training.data import open_train_data, to_device
from ampguard.training.setup import seed_everything

STEPS = 3
"""Steps measured: the optimizer's state appears in the first, and the second shows the peak with all of it."""

_PICKLING = (pickle.PicklingError, TypeError, ValueError, AttributeError, RecursionError, OSError)
"""What cloudpickle raises for what it cannot take, and the disk."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to measure."""

    task: Task
    config: TrainConfig
    decision: Decision
    device: str


class FootprintError(Exception):
    """The memory of a precision could not be measured.

    Args:
        reason: Why.
        out_of_memory: Whether it did not fit.
    """

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


def footprint(job: Job, *, timeout_s: float) -> Footprint:
    """Measure in a fresh process.

    Raises:
        FootprintError: The Task cannot be sent to another process, the process failed, or it took too long.
    """
    with tempfile.TemporaryDirectory(prefix="ampguard-bench-") as folder:
        _send(job, Path(folder))
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, folder],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                # As in this process: the user's folder, and what a notebook or a test runner put there.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        except subprocess.TimeoutExpired as error:
            raise FootprintError(f"measuring it took longer than {timeout_s:.0f} s") from error
    return _answer(done)


def _send(job: Job, folder: Path) -> None:
    """Write the job; the modules of files that `find_task` imported are imported from there again."""
    files = [str(module.__file__) for name, module in sys.modules.items() if name.startswith("ampguard_task_")]
    try:
        (folder / "imports.json").write_text(json.dumps(files))
        (folder / "job").write_bytes(cloudpickle.dumps(job))
    except _PICKLING as error:
        raise FootprintError(f"the Task cannot be sent to another process: {error}") from error


def _answer(done: "subprocess.CompletedProcess[str]") -> Footprint:
    try:
        values = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        # -9: the system's own answer to a process that takes too much memory.
        out_of_memory = done.returncode == -9
        why = "the system ended the process, most likely for its memory" if out_of_memory else last[0]
        raise FootprintError(f"its process left no answer: {why}", out_of_memory=out_of_memory) from None
    if "error" in values:
        raise FootprintError(values["error"], out_of_memory=values["out_of_memory"])
    return Footprint.from_dict(values)


def measure(job: Job) -> Footprint:
    """Measure in this process."""
    device = torch.device(job.device)
    seed_everything(job.config.seed, deterministic=False)
    data = open_train_data(job.task, batch_size=job.config.batch_size, seed=job.config.seed, workers=0)
    batch = to_device(data.peek(), device)
    meter = PeakMeter(device)
    meter.start()
    weights = job.task.model().to(device)
    made = Contender(job.task, weights, job.config, decision=job.decision, batches=[batch], owns_weights=True)
    for _ in range(STEPS):
        made.block()
    peak = meter.peak_mib()
    # In a step of its own, after the peak was read: what the hooks remember must not count in it.
    with KeptForBackward(made.model) as kept:
        made.block()
    parts = {
        "weights": size_mib([*made.model.parameters(), *made.model.buffers()]),
        "gradients": size_mib(p.grad for p in made.model.parameters()),
        "optimizer": size_mib(
            value for state in made.optimizer.state.values() for value in state.values() if torch.is_tensor(value)
        ),
        "activations": kept.mib,
    }
    workspace = None if peak is None else max(0.0, peak - sum(parts.values()))
    reason = "" if peak is not None else "this system does not tell a process's peak memory"
    return Footprint(peak=peak, parts=Memory(**parts, workspace=workspace), reason=reason)


def main(folder: str) -> dict[str, Any]:
    """Do the job in a folder; return the answer."""
    logging.disable(logging.WARNING)
    try:
        for file in json.loads((Path(folder) / "imports.json").read_text()):
            import_file(Path(file))
        job: Job = cloudpickle.loads((Path(folder) / "job").read_bytes())
        return measure(job).as_dict()
    except Exception as error:  # noqa: BLE001 - whatever a Task raises is the answer: the parent says so
        return {"error": reason_of(error), "out_of_memory": is_out_of_memory(error)}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory was not enough; torch has no class for it on a CPU."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(sys.argv[1])) + "\n")
