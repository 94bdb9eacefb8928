"""What stands before the first step: seeds, optimizer, schedule, and the precision that the run gets."""

import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ampguard.checkpointing import capture_rng, restore_rng
from ampguard.errors import ConfigError, TaskError
from ampguard.hardware import inspect
from ampguard.precision import Decision, autocast, policy_of, resolve, time_passes
from ampguard.task import Batch, LossSum, Task
from ampguard.training.config import WARMUP_FRACTION, TrainConfig

log = logging.getLogger("ampguard.training")

FINAL_LR = 0.1
"""The LR at the end of cosine and linear, as a share of its peak. Source: Hoffmann et al. 2022 (arXiv:2203.15556)."""


@contextmanager
def kept_process() -> Iterator[None]:
    """Put back after a run what `deterministic` and `threads` set for the whole process."""
    threads = torch.get_num_threads()
    mode, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed python, numpy and torch; `deterministic` also refuses operations that are not."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def make_optimizer(task: Task, model: nn.Module, config: TrainConfig) -> Optimizer:
    """Return the Task's optimizer, or a fused AdamW that decays matrices only.

    Raises:
        TaskError: The Task's function returned something else.
    """
    lr = config.lr or 1e-3
    if task.optimizer is not None:
        optimizer = task.optimizer(model, lr)
        if not isinstance(optimizer, Optimizer):
            raise TaskError(
                f"Task {task.name!r}: optimizer returned {type(optimizer).__name__}.",
                hint="Return a torch.optim.Optimizer over model.parameters().",
            )
        return optimizer
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": config.weight_decay or 0.0},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    try:
        return AdamW(groups, lr=lr, fused=True)
    except RuntimeError as error:
        log.warning("AdamW has no fused kernel here (%s): the unfused one costs a synchronisation a step.", error)
        return AdamW(groups, lr=lr)


def make_schedule(task: Task, config: TrainConfig, steps: int) -> Callable[[Optimizer], LRScheduler]:
    """Return the factory of the LR schedule over `steps` applied steps.

    A schedule that the config names goes before the Task's own. It is a warm-up, then cosine, linear, or constant;
    a plateau rule multiplies the constant one.
    """
    kind = config.schedule
    if kind is None and task.schedule is not None:
        return task.schedule
    warmup = config.warmup_steps
    warmup = min(math.ceil(WARMUP_FRACTION * steps), 1000) if warmup is None else warmup

    def factor(applied: int) -> float:
        if applied < warmup:
            return (applied + 1) / warmup
        share = min(1.0, (applied - warmup) / max(1, steps - warmup))
        if kind in ("constant", "plateau"):
            return 1.0
        fall = (1 + math.cos(math.pi * share)) / 2 if kind == "cosine" else 1 - share
        return FINAL_LR + (1 - FINAL_LR) * fall

    return lambda optimizer: LambdaLR(optimizer, factor)


def checkpoint_activations(task: Task, model: nn.Module) -> None:
    """Ask the model to recompute its activations in the backward pass; Hugging Face's name for it is used.

    Raises:
        ConfigError: The model has no `gradient_checkpointing_enable`.
    """
    enable = getattr(model, "gradient_checkpointing_enable", None)
    if not callable(enable):
        raise ConfigError(
            f"activation_checkpointing is set, but {type(model).__name__}, the model of Task {task.name!r}, does not "
            "offer it.",
            hint="Give it a method gradient_checkpointing_enable() that wraps its blocks in torch.utils.checkpoint.",
        )
    enable()


def decide_precision(task: Task, model: nn.Module, batch: Batch, config: TrainConfig, device: torch.device) -> Decision:
    """Return the precision of the run; `auto` on a CPU with native bf16 times the real model, and restores it."""

    def measure(candidates: Sequence[str]) -> dict[str, float]:
        rng, buffers = capture_rng(), [b.clone() for b in model.buffers()]
        try:
            return time_passes(lambda name: _one_pass(task, model, batch, name, device), candidates)
        finally:
            model.zero_grad(set_to_none=True)
            for buffer, saved in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(saved)
            restore_rng(rng)

    return resolve(config.precision, inspect(device), on_unsupported=config.on_unsupported, measure=measure)


def _one_pass(task: Task, model: nn.Module, batch: Batch, precision: str, device: torch.device) -> None:
    with autocast(policy_of(precision), device.type):
        loss = task.loss(model, batch)
    value = loss.total / loss.count if isinstance(loss, LossSum) else loss
    value.backward()  # type: ignore[no-untyped-call]


def check_sizes(config: TrainConfig) -> None:
    """Refuse a micro-batch larger than the batch."""
    batch, micro = config.batch_size, config.micro_batch_size
    if batch is not None and micro is not None and micro > batch:
        raise ConfigError(
            f"micro_batch_size {micro} is larger than batch_size {batch}.", hint="Lower it, or leave it out."
        )
