"""The three loops that bench-overhead compares: the same training, written three ways.

*plain* is the loop of torch's own tutorials. *tuned* is what a patient expert makes of it: the LR of each step computed
ahead, lists made once, the norm and the clipping in foreach calls, and nothing left that can be removed. Both lose the
run at the first non-finite gradient. *ours* is a Guard with clipping and a schedule, every guarantee on.

All three clip at 1.0, follow the same LR, and log the loss at the same steps, which is one host synchronisation each.

Source: pytorch.org/tutorials (optimization, and the automatic mixed precision recipe).
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ampguard import Guard
from subjects import Subject

MAX_NORM = 1.0
LOG_EVERY = 50
"""Steps between two logged losses."""

Run = Callable[[int], None]
"""Takes that many further steps."""

Forward = Callable[[nn.Module, Any], Tensor]


def plain(subject: Subject, precision: str) -> tuple[nn.Module, Run]:
    """Return a model and the tutorial's loop over it."""
    model = subject.model()
    optimizer = AdamW(model.parameters(), lr=subject.lr, fused=True)
    scheduler = LambdaLR(optimizer, subject.lr_factor)
    stream, forward = _steps(subject), _forward(subject, precision)

    def run(steps: int) -> None:
        for step, batch in islice(stream, steps):
            optimizer.zero_grad()
            loss = forward(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            scheduler.step()
            if step % LOG_EVERY == 0:
                loss.item()

    return model, run


def tuned(subject: Subject, precision: str) -> tuple[nn.Module, Run]:
    """Return a model and a loop from which nothing can be removed."""
    model = subject.model()
    params = list(model.parameters())
    optimizer = AdamW(params, lr=subject.lr, fused=True)
    group = optimizer.param_groups[0]
    lrs = [subject.lr * subject.lr_factor(step) for step in range(100_000)]
    stream, forward, take_step = _steps(subject), _lean_forward(subject, precision), optimizer.step
    foreach_norm, foreach_mul_, stack = torch._foreach_norm, torch._foreach_mul_, torch.stack
    vector_norm = torch.linalg.vector_norm

    def run(steps: int) -> None:
        for step, batch in islice(stream, steps):
            loss = forward(model, batch)
            loss.backward()
            grads = [param.grad for param in params]
            norm = vector_norm(stack(foreach_norm(grads)))
            # MAX_NORM is 1, so that the reciprocal is the whole coefficient.
            foreach_mul_(grads, norm.add_(1e-6).reciprocal_().clamp_(max=1.0))
            group["lr"] = lrs[step - 1]
            take_step()
            for param in params:
                param.grad = None
            if step % LOG_EVERY == 0:
                loss.item()

    return model, run


def ours(subject: Subject, precision: str) -> tuple[nn.Module, Run]:
    """Return a model and the loop of the README over it."""
    model = subject.model()
    optimizer = AdamW(model.parameters(), lr=subject.lr, fused=True)
    guard = Guard(
        model,
        optimizer,
        precision=precision,
        on_unsupported="error",
        max_grad_norm=MAX_NORM,
        schedule=lambda dummy: LambdaLR(dummy, subject.lr_factor),
    )
    stream = _steps(subject)

    def run(steps: int) -> None:
        for step, batch in islice(stream, steps):
            with guard.autocast():
                loss = subject.loss(model, batch)
            guard.backward(loss)
            guard.step()
            if step % LOG_EVERY == 0:
                guard.read()

    return model, run


LOOPS = {"plain": plain, "tuned": tuned, "ours": ours}


def _steps(subject: Subject) -> Iterator[tuple[int, Any]]:
    """Yield (ordinal from 1, batch) without end."""
    step = 0
    while True:
        for batch in subject.batches:
            step += 1
            yield step, batch


def _forward(subject: Subject, precision: str) -> Forward:
    """Return the loss of a batch as the tutorials take it: a new autocast context for each forward, none in fp32."""

    def forward(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return subject.loss(model, batch)

    return subject.loss if precision == "fp32" else forward


def _lean_forward(subject: Subject, precision: str) -> Forward:
    """Return the same with one context for all steps, which torch allows to be entered again."""
    context, loss = torch.autocast("cpu", dtype=torch.bfloat16), subject.loss

    def forward(model: nn.Module, batch: Any) -> Tensor:
        with context:
            return loss(model, batch)

    return loss if precision == "fp32" else forward
