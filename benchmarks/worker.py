"""One row in a process of its own: the loop trains, and the clock stands in the iterator that feeds it.

A Trainer that owns its loop cannot be asked for a hundred steps at a time, but it must ask for its batches. So the
iterator holds the baton: before a block's first batch it waits for its turn, and it stops the clock when it is asked
for the batch after the block. A loop that fetches a batch ahead is timed over as many steps, each one earlier.

A process a row, because Accelerate and the Hugging Face Trainer keep one precision a process, and so that no library's
settings, threads or garbage weigh on another row. The processes take turns: one runs, the others sleep.
"""

import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loops import Batches, load
from subjects import SUBJECTS, Subject

Row = tuple[str, str]
"""(loop, precision)."""

SETTLE_S = 0.005
"""Sleep before a block: the row before may have left threads that spin (libgomp's do so for some milliseconds)."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a row's loop makes of the subject in `agreement_steps` steps."""

    weights: "np.ndarray[Any, Any]"
    """All parameters after the last step, float64, shape (parameters,)."""
    dtype: str
    """What the model's first Linear computed in, as torch names it."""


def work(pipe: Connection, subject_name: str, row: Row, blocks: int) -> None:
    """Send what the row's loop makes of the subject, then the seconds of warm-up and of each block; each when asked."""
    # Libraries introduce themselves at INFO, all rows at once.
    logging.disable(logging.INFO)
    subject = SUBJECTS[subject_name]()
    torch.set_num_threads(subject.threads)
    loop, precision = load(row[0]), row[1]
    pipe.recv()
    pipe.send(trained(subject, row))
    sizes = [subject.warmup_steps] + [subject.steps_per_block] * blocks
    loop(subject, precision, subject.model(), Batches(_timed(subject, sizes, pipe), sum(sizes) + 1))


def trained(subject: Subject, row: Row) -> Trained:
    """Return what a row's loop makes of the subject."""
    model, dtypes = subject.model(), set()
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    first.register_forward_hook(lambda *call: dtypes.add(str(call[-1].dtype).removeprefix("torch.")))
    steps = subject.agreement_steps
    load(row[0])(subject, row[1], model, Batches(islice(cycle(subject.batches), steps), steps))
    return Trained(weights=flat(model).numpy(), dtype="+".join(sorted(dtypes)))


def flat(model: nn.Module) -> Tensor:
    """Return the model's parameters in one tensor, float64, shape (parameters,)."""
    return torch.cat([param.detach().double().flatten() for param in model.parameters()])


def _timed(subject: Subject, sizes: list[int], pipe: Connection) -> Iterator[Any]:
    """Yield blocks of batches; send the seconds of each, with the garbage collector off."""
    batches = cycle(subject.batches)
    for size in sizes:
        pipe.recv()
        gc.collect()
        # What lives now lives on: the next collection need not look at it, nor at the libraries.
        gc.freeze()
        gc.disable()
        time.sleep(SETTLE_S)
        began = time.perf_counter()
        yield from islice(batches, size)
        seconds = time.perf_counter() - began
        gc.enable()
        pipe.send(seconds)
    # One more, because a Trainer that has had its steps does not ask again, and the clock would go on.
    yield next(batches)
