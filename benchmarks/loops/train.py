"""Our whole trainer, `ampguard.train`: the Guard, the data's position, the run folder. The first row and the first
checkpoint are due after the last step.

Source: docs/design.md, section 4.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

import ampguard
from ampguard import Task
from loops import MAX_NORM, Batches
from subjects import Subject


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Train the subject as a Task, in a run folder that is thrown away."""
    task = Task(
        name="overhead",
        model=lambda: model,
        loss=subject.loss,
        train_data=batches,
        optimizer=lambda model, _: subject.optimizer(model),
        schedule=subject.schedule,
    )
    with TemporaryDirectory() as folder:
        ampguard.train(
            task,
            out=Path(folder) / "run",
            precision=precision,
            on_unsupported="error",
            steps=len(batches),
            max_grad_norm=MAX_NORM,
            log_every=len(batches),
            checkpoint_every=str(len(batches)),
        )
