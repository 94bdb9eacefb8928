"""GradScaler: torch's own, with limits, a memory and an answer. One import changes, the loop stays.

    from ampguard import GradScaler         # was: from torch.amp import GradScaler

    scaler = GradScaler("cuda")
    ...
    scaler.scale(loss).backward()
    applied = scaler.step(optimizer)        # bool on the device: keeping it costs nothing, testing it synchronises
    scaler.update()                         # counts, tells, and raises when nothing moves any more

The arithmetic is torch's, step for step: this class calls it and adds what it lacks. The scale stays between a floor
and a ceiling. A fused optimizer gets a found_inf of exactly 0.0 or 1.0 (at any other number its kernel applies the
step), and a fused SGD has zeros for momentum before its first step can be skipped. Each `update` that ends a step
writes one row on the device, read every `check_every` updates: counters, events, and `on_collapse`.

Left out, because a scaler sees gradients only: BatchNorm's running statistics keep what a skipped step's forward did
to them, and an LR schedule moves on; `Guard` undoes and holds both. The gradient norm is unknown (None). Ranks that
hold different shards (FSDP) need torch's ShardedGradScaler, or a Guard with `agree`.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from ampguard.engine.collapse import Action, Collapse, raise_collapse
from ampguard.engine.config import GuardConfig
from ampguard.engine.logbook import Logbook
from ampguard.engine.optimizers import seed_momentum, takes_numbers, unfused
from ampguard.engine.readback import Tally
from ampguard.errors import CheckpointError
from ampguard.records import Event, StepRecord

STATE_SCHEMA = 1
"""Version of the entry "ampguard" of `GradScaler.state_dict`."""
TORCHS_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
LIMITS = ("min_scale", "max_scale", "max_skip_streak")

log = logging.getLogger("ampguard.engine")

_Outputs = TypeVar("_Outputs")


class GradScaler(torch.amp.GradScaler):
    """A drop-in for `torch.amp.GradScaler`; the first six arguments are its own.

    A step costs no synchronisation with a fused optimizer and torch's one with any other. A fused SGD with momentum and
    dampening counts as unfused: zeros in place of its missing momentum would not be torch's first step.

    Args:
        device: Device type of the losses, "cuda" or "cpu".
        init_scale: First loss scale, between `min_scale` and `max_scale`.
        growth_factor: Factor on the scale after `growth_interval` applied steps in a row, > 1.
        backoff_factor: Factor on the scale after an overflow, in (0, 1).
        growth_interval: Applied steps in a row before the scale grows.
        enabled: False: `step` steps the optimizer, everything else does nothing.
        min_scale: Floor of the loss scale.
        max_scale: Ceiling of the loss scale.
        max_skip_streak: Skipped steps in a row that are still ordinary.
        on_collapse: Decides when the scale stands at its floor or the streak is too long; the default raises.
        check_every: Updates between two reads of the device: the lag of events.
        on_event: Receives each event at the read that found it; None: the log.

    Raises:
        ConfigError: An option is out of range, and the scaler is enabled.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        min_scale: float = 1.0,
        max_scale: float = 2.0**24,
        max_skip_streak: int = 32,
        on_collapse: Callable[[Collapse], Action] = raise_collapse,
        check_every: int = 50,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(device, init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._applied: Tensor | None = None
        options = {
            "init_scale": init_scale,
            "growth_factor": growth_factor,
            "backoff_factor": backoff_factor,
            "growth_interval": growth_interval,
            "min_scale": min_scale,
            "max_scale": max_scale,
            "max_skip_streak": max_skip_streak,
            "on_collapse": on_collapse,
            "check_every": check_every,
            "on_event": on_event,
        }
        # torch does not look at the options of a disabled scaler, either.
        config = GuardConfig().with_options(options if self._enabled else {})
        self._logbook = Logbook(config, self.get_backoff_factor)

    @property
    def applied(self) -> Tensor | None:
        """Whether every optimizer stepped in the last `update`: bool, shape (), on the device; None before the first.

        Disabled: the True of the last `step`. Sync: none.
        """
        return self._applied

    def scale(self, outputs: _Outputs) -> _Outputs:
        """Return the outputs times the loss scale, as torch does.

        The loss of a step is the sum of the scalars that were given since the last update; with anything else among
        them it is unknown, for good.

        Sync: none.
        """
        scaled: _Outputs = super().scale(outputs)  # type: ignore[call-overload]
        if self._enabled:
            self._logbook.add_loss(outputs)
        return scaled

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Step the optimizer unless a gradient is not finite; unscale first where nobody has.

        Args:
            optimizer: The optimizer.
            args: For `optimizer.step`; no closure, which would make new gradients after the old ones were judged.
            kwargs: For `optimizer.step`; no closure.

        Returns:
            applied: bool, shape (), on the device of the scale; always True where the scaler is disabled.

        Raises:
            RuntimeError: A closure, or a second step before `update`, as in torch.

        Sync: none with a fused optimizer; else one, as in torch.
        """
        if not self._enabled:
            optimizer.step(*args, **kwargs)
            self._applied = torch.ones((), dtype=torch.bool, device=_device(optimizer))
            return self._applied
        if "closure" in kwargs or any(callable(arg) for arg in args):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        self._check_scale_growth_tracker("step")
        if takes_numbers(optimizer, tables_lr=False):
            seed_momentum(optimizer)
            self._settle(optimizer)
            super().step(optimizer, *args, **kwargs)
        else:
            with unfused(optimizer):
                super().step(optimizer, *args, **kwargs)
        self._logbook.note_lr(optimizer)
        return self._found_inf([self._per_optimizer_states[id(optimizer)]]).eq(0.0)

    def _check_inf_per_device(self, optimizer: Optimizer) -> dict[str, Any]:
        # torch's step calls this for a fused optimizer that was not unscaled.
        super()._check_inf_per_device(optimizer)
        self._settle(optimizer)
        return self._found_inf_per_device(optimizer)

    def _settle(self, optimizer: Optimizer) -> None:
        """Make the found_inf of an optimizer one number, 0.0 or 1.0: devices and ranks may have been summed."""
        state = self._per_optimizer_states[id(optimizer)]
        if state["found_inf_per_device"]:
            found_inf = self._found_inf([state])
            state["found_inf_per_device"] = {found_inf.device: found_inf}

    def _found_inf(self, states: Iterable[dict[str, Any]]) -> Tensor:
        """Return 1.0 if a gradient was not finite, else 0.0: float32, shape (). Sync: none."""
        scale, _ = self._check_scale_growth_tracker("step")
        found = [t.to(scale.device, non_blocking=True) for s in states for t in s["found_inf_per_device"].values()]
        return reduce(torch.maximum, found).ne(0.0).float() if found else torch.zeros_like(scale)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Move the scale as torch does, keep it between its limits, and count the step.

        A step counts if an optimizer was stepped since the last update; it was applied if no gradient of any
        optimizer was non-finite.

        Args:
            new_scale: Takes the place of the law's; the limits hold for it too, with a warning for a number.

        Raises:
            CollapseError: From `on_collapse`, every `check_every` updates.

        Sync: none, but for one read every `check_every` updates.
        """
        if not self._enabled:
            return
        scale, _ = self._check_scale_growth_tracker("update")
        states = self._per_optimizer_states.values()
        attempted = any(s["stage"] is OptState.STEPPED and s["found_inf_per_device"] for s in states)
        if attempted:
            found_inf = self._found_inf(states)
            self._logbook.write(scale, found_inf)
            self._applied = found_inf.eq(0.0)
        low, high = self._logbook.config.min_scale, self._logbook.config.max_scale
        super().update(_within(new_scale, low, high) if isinstance(new_scale, float) else new_scale)
        # NaN passes a clamp.
        scale.nan_to_num_(nan=high).clamp_(low, high)
        self._logbook.finish()

    def read(self) -> StepRecord:
        """Return the last step as plain numbers, after delivering the events of all steps before it.

        Raises:
            ConfigError: No step was taken yet, or the scaler is disabled.
            CollapseError: From `on_collapse`.

        Sync: one, if a step was taken since the last read.
        """
        return self._logbook.read()

    def _lazy_init_scale_growth_tracker(self, dev: torch.device) -> None:
        super()._lazy_init_scale_growth_tracker(dev)
        self._logbook.open(dev)

    def state_dict(self) -> dict[str, Any]:
        """Return torch's five entries, and "ampguard" with counters and limits; {} where disabled.

        `torch.amp.GradScaler` takes it as it is. Sync: three.
        """
        state = super().state_dict()
        if self._enabled:
            tally = asdict(self._logbook.count())
            state["ampguard"] = {"schema": STATE_SCHEMA, "tally": tally, "limits": self._limits()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of this class, or of torch's: then the counters restart and the limits stay.

        A scale outside of the limits goes on at the nearest one, NaN at the ceiling, with a warning.

        Raises:
            CheckpointError: An entry of torch's is missing, or the state is of a newer schema.
            RuntimeError: The state is empty, as that of a disabled scaler is.
        """
        if not self._enabled or not state_dict:
            super().load_state_dict(state_dict)
            return
        own = _checked(state_dict)
        limits = self._limits() | own.get("limits", {})
        scale = _within(float(state_dict["scale"]), limits["min_scale"], limits["max_scale"])
        config = self._logbook.config.with_options({**limits, "init_scale": scale})
        super().load_state_dict({**state_dict, "scale": scale})
        self._logbook.restart(config, Tally(**own.get("tally", {})))
        if self._scale is not None:
            self._logbook.open(self._scale.device)

    def _limits(self) -> dict[str, Any]:
        return {name: getattr(self._logbook.config, name) for name in LIMITS}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_applied": None}

    def __repr__(self) -> str:
        if not self._enabled:
            return "GradScaler(disabled)"
        tally = self._logbook.count()
        return f"GradScaler(loss scale {self.get_scale():g} | {tally.applied} applied, {tally.skipped} skipped)"


def _device(optimizer: Optimizer) -> torch.device:
    return next(param.device for group in optimizer.param_groups for param in group["params"])  # type: ignore[no-any-return]


def _within(value: float, low: float, high: float) -> float:
    """Return the loss scale nearest to `value` that the limits allow; NaN: the ceiling, which backs off by itself."""
    bounded = high if math.isnan(value) else min(max(value, low), high)
    if bounded != value:
        log.warning("loss scale %g is not between %g and %g: it goes on at %g", value, low, high, bounded)
    return bounded


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """Return the entry "ampguard" of a state that can be loaded; {} where torch's own scaler made it."""
    missing = [key for key in TORCHS_KEYS if key not in state]
    if missing:
        raise CheckpointError(
            f"the scaler's state lacks {', '.join(missing)}; it holds {', '.join(map(str, state))}.",
            hint="Give what state_dict() of a GradScaler returned.",
        )
    own: dict[str, Any] = state.get("ampguard", {"schema": STATE_SCHEMA})
    if own.get("schema") != STATE_SCHEMA:
        raise CheckpointError(
            f"the scaler's state has schema {own.get('schema')!r}; this version reads {STATE_SCHEMA}."
        )
    return own
