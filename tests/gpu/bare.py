"""The loops that ours is held against and measured by: torch's own AMP recipe, and the same training with a Guard.

Both take one step a call and never read the device by themselves. The bare loop is the one of torch's tutorials:
autocast, `GradScaler` in fp16, `clip_grad_norm_`, LambdaLR.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ampguard import Guard

DTYPES = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}
"""Precisions that autocast; fp32 and tf32 do not."""
LR = 1e-3

Loss = Callable[[nn.Module, Any], Tensor]
"""The mean over a batch, a scalar."""
Step = Callable[[Any], None]
"""Takes one step on a batch."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What both loops do alike."""

    precision: str
    max_norm: float | None = None
    lr_factor: Callable[[int], float] | None = None
    make_optimizer: Callable[..., Optimizer] = lambda params: AdamW(params, lr=LR, fused=True)
    init_scale: float = 2.0**16
    growth_interval: int = 2000


def bare(model: nn.Module, loss: Loss, recipe: Recipe) -> tuple[Step, torch.amp.GradScaler]:
    """Return the bare loop's step, and its scaler (which does nothing but in fp16)."""
    device = next(model.parameters()).device
    optimizer = recipe.make_optimizer(model.parameters())
    scheduler = LambdaLR(optimizer, recipe.lr_factor) if recipe.lr_factor else None
    dtype = DTYPES.get(recipe.precision)
    scaler = torch.amp.GradScaler(
        device.type,
        init_scale=recipe.init_scale,
        growth_interval=recipe.growth_interval,
        enabled=recipe.precision == "fp16-mixed",
    )

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            value = loss(model, batch)
        scaler.scale(value).backward()
        if recipe.max_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_norm)
        scaler.step(optimizer)
        scaler.update()
        if scheduler is not None:
            scheduler.step()

    return step, scaler


def guarded(model: nn.Module, loss: Loss, recipe: Recipe, **options: Any) -> tuple[Step, Guard]:
    """Return the same step with a Guard around it, and the Guard. `options` are the Guard's."""
    factor = recipe.lr_factor
    guard = Guard(
        model,
        recipe.make_optimizer(model.parameters()),
        precision=recipe.precision,
        on_unsupported="emulate",
        max_grad_norm=recipe.max_norm,
        schedule=(lambda optimizer: LambdaLR(optimizer, factor)) if factor else None,
        init_scale=recipe.init_scale,
        growth_interval=recipe.growth_interval,
        on_event=lambda event: None,
        **options,
    )

    def step(batch: Any) -> None:
        with guard.autocast():
            value = loss(model, batch)
        guard.backward(value)
        guard.step()

    return step, guard
