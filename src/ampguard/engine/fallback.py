"""Fallbacks: a module, or the whole run, goes on in a wider precision than it began with.

    guard.fall_back("its scores overflow", modules=("blocks.3.attention",))     # to fp32, over the overrides that are
    guard.fall_back("no module could be named")                                # the run to bf16-mixed, or fp32

The list of fallbacks is part of the guard's state. Everything follows from it and from what the guard was made with,
so that a resumed run, or a second one, computes what the first did.
"""

import glob
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from ampguard.errors import CheckpointError
from ampguard.hardware import Hardware
from ampguard.precision import Decision, Policy, apply_overrides, policy_of
from ampguard.records import Event


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """One change of precision on the way."""

    step: int
    """The attempted step after which it holds."""
    modules: tuple[str, ...]
    """fqn of each module that changed; empty: the run."""
    old: str
    """Precision before, by name."""
    to: str
    """Precision since, by name."""
    reason: str

    def event(self) -> Event:
        """Return what `events.jsonl` holds of it."""
        what = ", ".join(map(repr, self.modules)) or "the run"
        data = {"from": self.old, "to": self.to, "modules": list(self.modules), "reason": self.reason}
        return Event(
            kind="fallback", step=self.step, message=f"{what}: {self.old} -> {self.to}: {self.reason}", data=data
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {**asdict(self), "modules": list(self.modules)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fallback":
        """Return the fallback that `as_dict` described."""
        return cls(**{**values, "modules": tuple(values["modules"])})


def wider(hardware: Hardware) -> str:
    """Return the precision that a run without fp16 goes on in: one that has the exponents of fp32."""
    return "bf16-mixed" if hardware.support("bf16-mixed").support == "native" else "fp32"


class Fallbacks:
    """What changed its precision, and what follows from it for the model.

    Args:
        model: Its modules are overridden.
        first: The decision that the guard was made with.
        granted: The overrides that it was made with.
        device_type: As `torch.device.type` names it.
    """

    def __init__(self, model: nn.Module, first: Decision, granted: Mapping[str, Policy], device_type: str) -> None:
        self.first = first
        self.taken: tuple[Fallback, ...] = ()
        self._model, self._granted, self._device_type = model, granted, device_type

    def take(self, fallbacks: Sequence[Fallback]) -> Decision:
        """Bring the model to where it stands after all of `fallbacks`, and return the decision that holds then.

        Raises:
            ConfigError: A module does not exist or cannot be overridden; nothing was changed.
        """
        decision = self._decision(fallbacks)
        overrides = self._overrides(decision.policy, fallbacks)
        apply_overrides(self._model, overrides, run=decision.policy, device_type=self._device_type, allow_covered=True)
        self.taken = tuple(fallbacks)
        return decision

    def _decision(self, fallbacks: Sequence[Fallback]) -> Decision:
        decision = self.first
        for fallback in fallbacks:
            if fallback.modules:
                what = f"{', '.join(fallback.modules)} in {fallback.to} since step {fallback.step}"
                decision = replace(decision, reason=f"{decision.reason}; {what}")
            else:
                reason = f"fell back from {fallback.old} after step {fallback.step}: {fallback.reason}"
                decision = replace(decision, granted=fallback.to, reason=reason)
        return decision

    def _overrides(self, run: Policy, fallbacks: Sequence[Fallback]) -> dict[str, Policy]:
        """Return the policy of each glob; without a loss scale, what needs one takes the run's."""
        kept = {
            pattern: run if policy.scaled and not run.scaled else policy for pattern, policy in self._granted.items()
        }
        own = dict(kept)
        for fallback in fallbacks:
            if not fallback.modules:
                # Modules fell back from the precision that the run has left by now.
                kept = dict(own)
            for pattern in map(glob.escape, fallback.modules):
                # The last holds.
                kept.pop(pattern, None)
                kept[pattern] = policy_of(fallback.to)
        return kept

    def of_state(self, precision: str, values: Iterable[Mapping[str, Any]]) -> tuple[Fallback, ...]:
        """Return the fallbacks of a saved guard that one made with `first` has to take.

        Args:
            precision: What the saved guard was made with.
            values: Its `state_dict`.

        Raises:
            CheckpointError: It never ran in the precision that this guard was made with.
        """
        saved = tuple(Fallback.from_dict(fallback) for fallback in values)
        if precision == self.first.granted:
            return saved
        runs = [index for index, fallback in enumerate(saved) if not fallback.modules]
        if runs and saved[runs[-1]].to == self.first.granted:
            return saved[runs[-1] + 1 :]
        raise CheckpointError(
            f"the state is of a {precision} run and this Guard is {self.first.granted}.",
            hint=f"Make it with precision={precision!r}.",
        )

    def state_dict(self) -> list[dict[str, Any]]:
        """Return plain values."""
        return [fallback.as_dict() for fallback in self.taken]


def compile_anew() -> None:
    """Drop the compiled code of this process: its older versions do not notice that a module's class has changed."""
    # A process that never imported it has compiled nothing.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
