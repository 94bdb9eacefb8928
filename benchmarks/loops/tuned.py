"""What a patient expert makes of the plain loop: nothing is left that can be removed.

The LR of each step is computed ahead, lists are made once, the norm and the clipping are foreach calls, and one
autocast context is entered again and again. It loses the run at the first non-finite gradient.
"""

from contextlib import nullcontext

import torch
from torch import nn

from loops import MAX_NORM, Batches
from subjects import Subject


def train(subject: Subject, precision: str, model: nn.Module, batches: Batches) -> None:
    """Train with as few calls as can be."""
    params = list(model.parameters())
    optimizer = subject.optimizer(model)
    group, take_step, take_loss = optimizer.param_groups[0], optimizer.step, subject.loss
    lrs = [subject.lr * subject.lr_factor(step) for step in range(len(batches))]
    context = nullcontext() if precision == "fp32" else torch.autocast("cpu", dtype=torch.bfloat16)
    foreach_norm, foreach_mul_, stack = torch._foreach_norm, torch._foreach_mul_, torch.stack
    vector_norm = torch.linalg.vector_norm
    for lr, batch in zip(lrs, batches, strict=True):
        with context:
            loss = take_loss(model, batch)
        loss.backward()
        grads = [param.grad for param in params]
        norm = vector_norm(stack(foreach_norm(grads)))
        # MAX_NORM is 1, so that the reciprocal is the whole coefficient.
        foreach_mul_(grads, norm.add_(1e-6).reciprocal_().clamp_(max=MAX_NORM))
        group["lr"] = lr
        take_step()
        for param in params:
            param.grad = None
