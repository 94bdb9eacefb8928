"""One precision in the race for speed: a model, its guard, and the same batches as all others.

The timed region holds forward, backward and step of a block of steps, and one synchronisation at its end. Batches
lie on the device already; what fetching them takes is measured apart.
"""

import copy
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import nn

from ampguard.engine import Guard, GuardConfig
from ampguard.precision import Decision, enable_tf32
from ampguard.task import Batch, Task
from ampguard.training.attempt import attempt
from ampguard.training.compiling import Compiled
from ampguard.training.config import TrainConfig
from ampguard.training.setup import make_optimizer, make_schedule

BLOCK_S = 0.2
"""Seconds that a block aims at: long enough that the clock and the one synchronisation do not count."""

MAX_STEPS = 100
"""Steps in a block at most."""


class Contender:
    """Trains in one precision, block by block.

    Args:
        task: What is trained.
        weights: A model whose weights this one starts from.
        config: Training options.
        decision: The precision.
        batches: On the device, used in turn.
        owns_weights: Whether to train `weights` themselves, not a copy.
        clock: Returns seconds, monotone.
    """

    def __init__(
        self,
        task: Task,
        weights: nn.Module,
        config: TrainConfig,
        *,
        decision: Decision,
        batches: Sequence[Batch],
        owns_weights: bool = False,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.batches = batches
        self._task, self._config, self._clock = task, config, clock
        self.decision = decision
        self.model = weights if owns_weights else copy.deepcopy(weights)
        self.model.train()
        self.optimizer = make_optimizer(task, self.model, config)
        options = GuardConfig(
            max_grad_norm=config.max_grad_norm or None,
            schedule=make_schedule(task, config, config.steps or 1),
            init_scale=config.init_scale or 2.0**16,
            max_skip_streak=10**9,
            check_every=10**4,
            on_event=lambda _: None,
        )
        self.guard = Guard(self.model, self.optimizer, options, decision=decision)
        if config.compile:
            Compiled(self.model)
        self.steps_per_block = 1
        self.steps = 0
        self.step_s = 0.0
        """Seconds of one step, as `calibrate` saw it."""

    def calibrate(self, block_s: float) -> None:
        """Choose the steps of a block so that it takes about `block_s`; the faster of two steps after a first tells."""
        first = self.block()
        if first > block_s:
            # Slow already: a second look would cost as much again, and a block is one step in any case.
            self.step_s = first
            return
        self.step_s = min(self.block(), self.block())
        self.steps_per_block = max(1, min(MAX_STEPS, round(block_s / self.step_s))) if self.step_s > 0 else MAX_STEPS

    def block(self) -> float:
        """Take a block of steps; return the seconds of one of them. Sync: one."""
        # tf32 is a mode of the whole process, and the block before was perhaps another contender's.
        enable_tf32(self.decision.policy, self.guard.device)
        began = self._clock()
        for _ in range(self.steps_per_block):
            attempt(
                self._task,
                self.model,
                self.guard,
                self.batches[self.steps % len(self.batches)],
                self._config.micro_batch_size,
            )
            self.steps += 1
        if self.guard.device.type != "cpu":
            torch.accelerator.synchronize(self.guard.device)
        return (self._clock() - began) / self.steps_per_block

    def skipped(self) -> int:
        """Return the steps that were skipped. Sync: one."""
        return int(self.guard.state_dict()["tally"]["skipped"])
