"""The Guard: one optimizer step as a transaction. It happens wholly, or leaves no trace.

    guard = Guard(model, optimizer)
    for x, y in loader:
        with guard.autocast():              # precision; the step's first entry saves the buffers
            loss = loss_fn(model(x), y)
        guard.backward(loss)                # scaled in fp16; exact under accumulation
        guard.step()                        # applied or undone

A step measures the gradients once. The norm tells whether they are finite; that bool, `applied`, stays on the
device and decides everything there: the optimizer's update, the loss scale, the buffers, the LR, the EMA.
Nothing is read back until the ring is full. `step` counts attempted steps, which the host knows; `applied`
steps live on the device.

Left out: what to do about a collapse (`on_collapse` decides, and may `watch` and `fall_back`), CUDA graph capture,
ranks (they come in as `agree`). With an optimizer that is not fused a step costs one synchronisation.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ampguard.engine import checks
from ampguard.engine.accumulate import Accumulator
from ampguard.engine.average import Average, NoAverage, WeightAverage
from ampguard.engine.collapse import Watcher
from ampguard.engine.config import GuardConfig
from ampguard.engine.fallback import Fallback, Fallbacks, compile_anew, wider
from ampguard.engine.fold import Fold, dense
from ampguard.engine.journal import Journal
from ampguard.engine.optimizers import make_stepper
from ampguard.engine.readback import Tally
from ampguard.engine.region import Region
from ampguard.engine.scale import DynamicScale, LossScale, NoScale
from ampguard.engine.schedule import CallersSchedule, Schedule, TableSchedule
from ampguard.engine.undo import Undo
from ampguard.errors import CheckpointError, ConfigError, LossError
from ampguard.hardware import inspect
from ampguard.precision import Decision, apply_overrides, check_ran, enable_tf32, grant_overrides, resolve
from ampguard.records import Event, StepRecord
from ampguard.task import LossSum

STATE_SCHEMA = 1
"""Version of what `Guard.state_dict` returns."""


class _Unscaled(NamedTuple):
    """What `unscale_` found before anybody changed the gradients; each of shape ()."""

    finite: Tensor
    loss: Tensor
    norm: Tensor
    """L2 norm of the unscaled gradients."""


class Guard:
    """Guards the optimizer steps of a training loop.

    Args:
        model: The model; its buffers are undone when a step is skipped.
        optimizer: One, or several that step together or not at all.
        config: Options; the defaults guard the step and change nothing else.
        decision: A precision that was resolved already; None: `precision` is resolved for the model's device.
        options: Single options of GuardConfig, over `config`.

    Raises:
        ConfigError: An option is out of range, an override fits no module, or model and optimizer do not fit together.
        PrecisionError: The precision is unknown, refused, or not supported with on_unsupported="error".
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        config: GuardConfig | None = None,
        *,
        decision: Decision | None = None,
        **options: Any,
    ) -> None:
        self.config = (config or GuardConfig()).with_options(options)
        self.optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        self._params = checks.parameters(self.optimizers)
        self._groups = sum(len(optimizer.param_groups) for optimizer in self.optimizers)
        self.device = self._params[0].device
        self._hardware = inspect(self.device)
        self.model = model
        self.decision = decision or resolve(
            self.config.precision, self._hardware, on_unsupported=self.config.on_unsupported
        )
        self._watcher: Watcher | None = None
        self._adopt(model)
        self._build(model)

    def _adopt(self, model: nn.Module) -> None:
        policy = self.decision.policy
        if policy.scaled:
            checks.refuse_half_weights(model, self._params)
        config, device = self.config, self.device
        granted = grant_overrides(config.overrides, policy, self._hardware, on_unsupported=config.on_unsupported)
        self._fallbacks = Fallbacks(model, self.decision, granted, device.type)
        self._overridden = apply_overrides(model, granted, run=policy, device_type=device.type)
        """(fqn, module) of each module with a precision of its own, until the first step has shown that they run."""
        if self.decision.requested in ("fp32", "tf32"):
            # Asked for by name: a float32 mode that the process has for other reasons would not be it.
            enable_tf32(policy, device)

    def _build(self, model: nn.Module) -> None:
        config, device = self.config, self.device
        self._sparse = checks.may_be_sparse(model)
        if self._sparse and config.max_grad_norm is not None:
            raise ConfigError("max_grad_norm is set and the model has sparse gradients, which cannot be clipped.")
        self._scale: LossScale = DynamicScale(config, device) if self.decision.policy.scaled else NoScale(device)
        self._stepper = make_stepper(self.optimizers, sparse=self._sparse, tables_lr=config.schedule is not None)
        self._fold = Fold((p.dtype for p in self._params), config.max_grad_norm, device)
        self._accumulator = Accumulator(device)
        self._undo = Undo(model)
        self._schedule = self._make_schedule()
        self._average: Average = NoAverage() if config.ema is None else WeightAverage(model, config.ema)
        self._counts_applied = config.schedule is not None or config.ema is not None
        self._applied_steps = torch.zeros(1, dtype=torch.int64, device=device)
        self._journal = Journal(
            config,
            scale=self._scale,
            lr=self._schedule.lr,
            precision=self.decision.granted,
            device=device,
            guard=self,
        )
        self._region = Region(self.decision.policy, device.type, self._enter)
        self._one = torch.ones((), device=device)
        self._infinity = torch.full((), float("inf"), device=device)
        self._found_inf = torch.zeros((), device=device)
        self._attempted = self._host_applied = 0
        self._spent = False
        """Whether the gradients are those of a finished step; the next forward or backward frees them."""
        self._unscaled: _Unscaled | None = None
        self._loss = torch.full((), float("nan"), device=device)
        self._lr_factor = 1.0

    def _make_schedule(self) -> Schedule:
        factory = self.config.schedule
        if factory is None:
            return CallersSchedule(self.optimizers)
        return TableSchedule(factory, self.optimizers, device=self.device, fused=self._stepper.fused)

    @property
    def first_decision(self) -> Decision:
        """The precision that the guard was made with; `decision` is the one that holds since the last fallback."""
        return self._fallbacks.first

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """What changed its precision on the way, in order."""
        return self._fallbacks.taken

    @property
    def attempted(self) -> int:
        """Attempted steps so far: the ordinal of the last step."""
        return self._attempted

    @property
    def fused(self) -> bool:
        """Whether a step needs no host synchronisation."""
        return self._stepper.fused

    @property
    def loss(self) -> Tensor:
        """The loss of the last step over its whole batch, shape (), float32, on the device; NaN before the first."""
        return self._loss

    @property
    def loss_scale(self) -> float | None:
        """The loss scale of the next step; None without scaling. Sync: one."""
        return self._scale.host(self._scale.value.item())

    @property
    def lr_factor(self) -> float:
        """What the schedule's every LR is multiplied by; 1.0 unless set. Needs `schedule`. Setting it syncs once."""
        return self._lr_factor

    @lr_factor.setter
    def lr_factor(self, factor: float) -> None:
        # The steps so far are read first: their rows tell the LR that they had.
        self._drain()
        self._set_lr_factor(factor)
        if self._counts_applied:
            self._schedule.place(int(self._applied_steps.item()))

    def _set_lr_factor(self, factor: float) -> None:
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigError(f"lr_factor is {factor!r}; it must be a finite number > 0.")
        self._schedule.scale(factor)
        self._lr_factor = factor

    @property
    def unprotected_buffers(self) -> tuple[str, ...]:
        """The fqn of each buffer that a skipped step does not undo: over 1 MiB and unchanged by the first step."""
        return self._undo.unprotected

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context for forward and loss; its first entry in a step saves the buffers. Sync: none."""
        return self._region

    def backward(
        self, loss: Tensor | LossSum, *, weight: int | float | Tensor | None = None, **autograd_kwargs: Any
    ) -> None:
        """Add the gradients of a micro-batch.

        A plain scalar adds what torch adds: the caller divides by the number of micro-batches. A LossSum, or a
        mean with `weight` (its number of elements), makes the step the exact weighted mean: then do not divide.

        Args:
            loss: Scalar, floating point, connected to the model; or LossSum(total, count).
            weight: Elements that the mean `loss` was taken over, > 0.
            autograd_kwargs: For Tensor.backward: retain_graph, create_graph, inputs.

        Raises:
            LossError: The loss cannot be differentiated, or kinds are mixed in one step.

        Sync: none.
        """
        if self._unscaled is not None:
            raise LossError("backward was called after unscale_ in the same step.", hint="Call step() first.")
        if self._spent:
            self._free()
        part = self._accumulator.add(loss, weight)
        self._scale.multiply(part).backward(**autograd_kwargs)  # type: ignore[no-untyped-call]

    def unscale_(self) -> None:
        """Divide the gradients by what the step would divide them by before clipping, in place.

        For those who read or change gradients between backward and step. A gradient that is not finite here
        skips the step, whatever becomes of it.

        Sync: none.
        """
        if self._unscaled is not None:
            return
        grads = dense(self._gradients())
        with torch.no_grad():
            ratio = self._accumulator.ratio()
            norm = self._fold.norm(grads)
            divisor = self._scale.unscale(ratio)
            if divisor is not None:
                torch._foreach_div_(grads, [divisor] * len(grads))
            self._unscaled = _Unscaled(
                finite=self._finite(norm, ratio),
                loss=self._accumulator.loss(ratio),
                norm=norm if divisor is None else norm / divisor,
            )

    def step(self) -> Tensor:
        """Take the step, or leave no trace of it. Its gradients are freed when the next step begins.

        Returns:
            applied: bool, shape (), on the device. Testing it synchronises; keeping it does not.

        Raises:
            GradientError: No parameter has a gradient.
            ConfigError: In the first step: the forward of an overridden module was not called.
            CollapseError: From `on_collapse`, at a read of the device.

        Sync: none with fused optimizers, but for one read every `check_every` steps; else one.
        """
        recording = torch.is_grad_enabled()
        # What torch.no_grad() does, without the objects that it makes anew at each call.
        torch._C._set_grad_enabled(False)
        try:
            return self._transact()
        finally:
            torch._C._set_grad_enabled(recording)

    def _transact(self) -> Tensor:
        if self._overridden:
            check_ran(self._overridden)
            self._overridden = ()
        if sum(len(optimizer.param_groups) for optimizer in self.optimizers) != self._groups:
            raise checks.groups_added()
        grads, early = self._gradients(), self._unscaled
        ratio = None if early else self._accumulator.ratio()
        norm = self._fold.norm(dense(grads) if self._sparse else grads)
        applied = self._decide(norm, ratio)
        unscale = None if early else self._scale.unscale(ratio)
        self._loss = early.loss if early else self._accumulator.loss(ratio)
        known = self._stepper.step(grads, self._fold.divisor(norm, unscale), self._found_inf)
        told = early.norm if early else norm
        self._journal.ring.write(
            (self._loss, told, self._one if unscale is None else unscale, self._scale.value, self._found_inf)
        )
        self._commit(applied, known)
        return applied

    def _gradients(self) -> list[Tensor]:
        grads = [grad for param in self._params if (grad := param.grad) is not None]
        if not grads or self._spent:
            raise checks.no_gradient()
        if self._sparse:
            for param in self._params:
                if param.grad is not None and param.grad.is_sparse:
                    param.grad = param.grad.coalesce()
            grads = [param.grad for param in self._params if param.grad is not None]
        return grads

    def _decide(self, norm: Tensor, ratio: Tensor | None) -> Tensor:
        applied = self._finite(norm, ratio)
        if self._unscaled is not None:
            applied = applied & self._unscaled.finite
        torch.logical_not(applied, out=self._found_inf)
        if self.config.agree is not None:
            # A sum over ranks, or a NaN, means skip as well; a fused kernel would apply at either.
            applied = torch.eq(self.config.agree(self._found_inf), 0.0)
            torch.logical_not(applied, out=self._found_inf)
        return applied

    def _finite(self, norm: Tensor, ratio: Tensor | None) -> Tensor:
        finite = torch.lt(norm, self._infinity)
        # A step over no elements at all has no loss: its gradients are 0 / 0.
        return finite if ratio is None else finite & (ratio > 0)

    def _commit(self, applied: Tensor, known: bool | None) -> None:
        self._scale.update(self._found_inf)
        self._undo.put_back(applied)
        self._attempted += 1
        if self._counts_applied:
            self._applied_steps.add_(applied)
            self._schedule.reach(self._attempted)
            if known is None:
                self._schedule.advance(self._applied_steps)
            else:
                self._host_applied += known
                self._schedule.place(self._host_applied)
            self._average.update(applied, self._applied_steps)
        self._finish()
        if self._watcher is not None:
            self._watcher.step_end(self)
        if self._attempted % self.config.check_every == 0:
            self._drain()
            self._journal.judge()

    def _finish(self) -> None:
        self._accumulator.clear()
        self._unscaled = None
        self._spent = True

    def _enter(self) -> None:
        # A forward without gradients is no step: a validation leaves them readable.
        if self._spent and torch.is_grad_enabled():
            self._free()
        self._undo.save()

    def _free(self) -> None:
        # Not at the end of the step: freed here, their memory is still warm when the forward asks for it (2 % of a
        # step of a 10 million parameter GPT on a CPU).
        for param in self._params:
            param.grad = None
        self._spent = False

    def rewind(self) -> None:
        """Drop the step that is under way: put the buffers back and clear the gradients. Sync: none."""
        with torch.no_grad():
            self._undo.put_back(torch.zeros((), dtype=torch.bool, device=self.device))
        self._finish()
        self._free()

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the averaged weights. Needs `ema`. Sync: none."""
        return self._average.swapped()

    def tell(self, event: Event) -> None:
        """Hand an event to `on_event`, or to the log."""
        self._journal.tell(event)

    def watch(self, watcher: Watcher | None) -> None:
        """Have every step end told to `watcher`, in place of the one before, which is closed; None: to nobody."""
        if self._watcher is not None:
            self._watcher.close()
        self._watcher = watcher

    @property
    def watched(self) -> bool:
        """Whether somebody is told of every step end."""
        return self._watcher is not None

    @torch.no_grad()
    def end_streak(self) -> None:
        """Take the loss scale back to what it was before the skipped steps that the last step ends; count afresh.

        For those who removed their cause: at its floor the scale loses small gradients.

        Raises:
            ConfigError: A step is under way: its gradients carry the scale that is.

        Sync: one or two.
        """
        self._refuse_within_a_step()
        self._drain()
        before = self._journal.end_streak()
        if before is not None:
            self._scale.load_state_dict({"scale": before, "growth_tracker": 0})

    @torch.no_grad()
    def fall_back(self, reason: str, *, modules: Sequence[str] = (), to: str | None = None) -> None:
        """Go on in a wider precision: some modules, or the whole run; weights, buffers and optimizers are not touched.

        A streak of skipped steps is over, as by `end_streak`. The fallback is part of `state_dict`, and an event.

        Args:
            reason: Why, as half a sentence.
            modules: fqn of each module that is to compute in `to`, over the overrides that there are; none: the run.
            to: Precision; None: fp32 for modules; for the run bf16-mixed where it is native, else fp32.

        Raises:
            ConfigError: A module does not exist or cannot be overridden, or a step is under way; nothing was changed.
            PrecisionError: `to` is no precision that this version has.

        Sync: one or two.
        """
        self._refuse_within_a_step()
        self._drain()
        to = to or ("fp32" if modules else wider(self._hardware))
        fallback = Fallback(
            step=self._attempted, modules=tuple(modules), old=self.decision.granted, to=to, reason=reason
        )
        self._take((*self.fallbacks, fallback))
        self.end_streak()
        self._journal.tell(fallback.event())

    def _refuse_within_a_step(self) -> None:
        if self._accumulator.micro_batches:
            raise ConfigError(
                "the loss scale cannot change between backward and step.", hint="Call step() first, or rewind()."
            )

    def _take(self, fallbacks: Sequence[Fallback]) -> None:
        decision, before = self._fallbacks.take(fallbacks), self.decision
        compile_anew()
        if decision.granted != before.granted:
            policy = decision.policy
            self._scale = DynamicScale(self.config, self.device) if policy.scaled else NoScale(self.device)
            self._region.switch(policy)
        self.decision = decision
        self._journal.set_law(self._scale, decision.granted)

    def read(self) -> StepRecord:
        """Return the last step as plain numbers, after delivering the events of all steps before it.

        Raises:
            ConfigError: No step was taken yet.
            CollapseError: From `on_collapse`.

        Sync: one, if a step was taken since the last read.
        """
        self._drain()
        self._journal.judge()
        if self._journal.last is None:
            raise ConfigError("no step was taken yet.", hint="Call guard.step() before guard.read().")
        return self._journal.last

    def _drain(self) -> None:
        if self._journal.drain():
            self._undo.settle()
            self._undo.rescan()

    def state_dict(self) -> dict[str, Any]:
        """Return what is neither the model's nor the optimizers': scale, counters, streak, EMA, precision, fallbacks.

        Plain numbers, strings and tensors: torch.load(weights_only=True) reads it. Sync: one or two.
        """
        self._drain()
        return {
            "schema": STATE_SCHEMA,
            "precision": self.first_decision.granted,
            "fallbacks": self._fallbacks.state_dict(),
            "tally": asdict(self._journal.tally),
            "scale": self._scale.state_dict(),
            "accumulator": self._accumulator.state_dict(),
            "ema": self._average.state_dict(),
            "lr_factor": self._lr_factor,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state that `state_dict` returned; LR tensors are bound again.

        Raises:
            CheckpointError: The state is of a newer schema or another precision.
        """
        if state.get("schema") != STATE_SCHEMA:
            raise CheckpointError(f"the guard's state has schema {state.get('schema')!r}; this version reads 1.")
        fallbacks = self._fallbacks.of_state(state["precision"], state.get("fallbacks", ()))
        if fallbacks != self.fallbacks:
            self._take(fallbacks)
        tally = Tally(**state["tally"])
        self._journal.restart(tally)
        self._attempted, self._host_applied = tally.attempted, tally.applied
        self._scale.load_state_dict(state["scale"])
        self._accumulator.load_state_dict(state["accumulator"])
        self._average.load_state_dict(state["ema"])
        self._applied_steps.fill_(self._host_applied)
        self._set_lr_factor(state.get("lr_factor", 1.0))
        self._schedule.reach(self._attempted)
        self._schedule.place(self._host_applied)
        self._schedule.bind()

    def __repr__(self) -> str:
        self._drain()
        tally = self._journal.tally
        return f"{self.decision} | {tally.applied} applied, {tally.skipped} skipped"
