"""Decide the precision of a run: what was asked, what the device can do, what is granted and why.

How it works: a precision asked for by name is granted where the device has it; where it does not, `on_unsupported`
decides between a loud fall back to fp32, an error, and slow emulation. "auto" goes by capability on accelerators and
by measurement on CPUs, because there bf16 is faster for some models and slower for others. No dtype is ever swapped
silently: each decision carries its reason, and each one that differs from the request is one warning.

Left out: timing itself (handed in as `measure`), and per-module exceptions.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ampguard.errors import ConfigError, PrecisionError, did_you_mean
from ampguard.hardware import Hardware, Support
from ampguard.precision.names import AUTO, canonical
from ampguard.precision.policy import IMPLEMENTED, Policy, policy_of
from ampguard.records import PrecisionRecord

logger = logging.getLogger("ampguard.precision")

OnUnsupported = Literal["fallback", "error", "emulate"]
Measure = Callable[[Sequence[str]], Mapping[str, float]]
"""Takes precisions, returns the seconds of one forward-backward pass in each."""

_NEEDS = {
    "tf32": "a GPU with tf32 matrix units",
    "bf16-mixed": "a device with bf16 instructions",
    "bf16-true": "a device with bf16 instructions",
    "fp16-mixed": "a GPU with fp16 matrix units",
}
_PREFERRED = ("bf16-mixed", "fp16-mixed")
"""Best first: bf16 has the exponents of fp32 and needs no loss scale."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The precision of a run, and why it is that one."""

    requested: str
    """What was asked, as a canonical name or "auto"."""
    granted: str
    """What the run uses, as a canonical name."""
    reason: str
    """Why, as half a sentence that fits into brackets."""

    @property
    def policy(self) -> Policy:
        """The dtypes of the granted precision."""
        return policy_of(self.granted)

    def record(self) -> PrecisionRecord:
        """Return the decision as plain data for the run's record."""
        return PrecisionRecord(requested=self.requested, granted=self.granted, reason=self.reason)

    def __str__(self) -> str:
        return f"{self.granted} ({self.reason})"


def resolve(
    requested: object,
    hardware: Hardware,
    *,
    on_unsupported: OnUnsupported = "fallback",
    measure: Measure | None = None,
) -> Decision:
    """Decide which precision a run gets.

    Args:
        requested: A precision in any of its spellings, or "auto".
        hardware: The device that the run is on.
        on_unsupported: What to do where the device lacks a precision asked for by name: warn and use fp32, raise, or
            warn and emulate it. What nothing can emulate is an error then.
        measure: Times passes of the model; only "auto" on a CPU with native bf16 calls it.

    Raises:
        PrecisionError: The name is unknown or refused; or the device lacks it and `on_unsupported` is "error", or
            "emulate" and there is nothing to emulate.
        ConfigError: `on_unsupported` is none of its three values.
    """
    name = canonical(requested)
    if on_unsupported not in get_args(OnUnsupported):
        allowed = get_args(OnUnsupported)
        hint = did_you_mean(str(on_unsupported), allowed)
        raise ConfigError(f"on_unsupported {on_unsupported!r} is unknown.", allowed=allowed, hint=hint)
    if name == AUTO:
        granted, reason = _choose(hardware, measure)
        return Decision(requested=AUTO, granted=granted, reason=reason)
    return _grant(name, hardware, on_unsupported)


def _grant(name: str, hardware: Hardware, on_unsupported: OnUnsupported) -> Decision:
    """Decide about a precision asked for by name."""
    fact = hardware.support(name)
    available = name in IMPLEMENTED
    if available and fact.support == "native":
        reason = "as requested" if name == "fp32" else f"native on {hardware.name}"
        return Decision(requested=name, granted=name, reason=reason)
    if available and fact.support == "unknown":
        # Refusing what may well work would shut out every device that does not describe itself.
        reason = f"as requested; support on {hardware.name} is unknown: {fact.source}"
        logger.warning("precision %r: %s.", name, reason)
        return Decision(requested=name, granted=name, reason=reason)
    if available and fact.support == "emulated" and on_unsupported == "emulate":
        reason = f"emulated on {hardware.name}, for tests and not for speed: {fact.source}"
        logger.warning("precision %r: %s.", name, reason)
        return Decision(requested=name, granted=name, reason=reason)
    lack = _lack(fact, hardware)
    if on_unsupported != "fallback":
        raise lack
    logger.warning("%s This run uses fp32 instead.", lack)
    return Decision(requested=name, granted="fp32", reason=f"fallback: {name} {_why(name)}")


def _lack(fact: Support, hardware: Hardware) -> PrecisionError:
    """Return the error that says what is missing, what is there and what to use."""
    usable = [name for name in hardware.native if name in IMPLEMENTED]
    better = next((name for name in _PREFERRED if name in usable), "fp32")
    there = f"; this machine has {hardware.label}: {fact.source}" if fact.precision in IMPLEMENTED else ""
    return PrecisionError(
        f"precision {fact.precision!r} {_why(fact.precision)}{there}.",
        allowed=usable,
        hint=f"Use {better!r}, or 'auto' to let ampguard choose.",
    )


def _why(name: str) -> str:
    """Return why a precision is not to be had, as a phrase that continues its name."""
    return f"needs {_NEEDS[name]}" if name in IMPLEMENTED else "is not available in this version of ampguard"


def _choose(hardware: Hardware, measure: Measure | None) -> tuple[str, str]:
    """Return (granted, reason) for "auto"; only native precisions are taken."""
    if hardware.kind == "cpu":
        return _choose_on_cpu(hardware, measure)
    missed = ""
    for fact in map(hardware.support, _PREFERRED):
        if fact.support == "native":
            return fact.precision, f"native on {hardware.name}{missed}"
        missed += f"; {fact.precision} is {fact.support} there: {fact.source}"
    return "fp32", f"nothing faster is known to be native on {hardware.name}{missed}"


def _choose_on_cpu(hardware: Hardware, measure: Measure | None) -> tuple[str, str]:
    """Return (granted, reason) for "auto" on a CPU: bf16 only where it is native and was measured faster."""
    fact = hardware.support("bf16-mixed")
    if fact.support != "native":
        return "fp32", f"bf16 is {fact.support} on {hardware.name}: {fact.source}"
    if measure is None:
        return "fp32", (
            f"bf16 is native on {hardware.name}, but faster only for some models and nothing timed this one; "
            "ask for it with precision='bf16-mixed'"
        )
    times = measure(("fp32", "bf16-mixed"))
    fp32_s, bf16_s = times.get("fp32", math.nan), times.get("bf16-mixed", math.nan)
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in (fp32_s, bf16_s)):
        return "fp32", f"timing gave no usable figures (fp32 {fp32_s} s, bf16-mixed {bf16_s} s)"
    fp32, bf16 = f"fp32 {fp32_s * 1e3:.3g} ms", f"bf16-mixed {bf16_s * 1e3:.3g} ms"
    if bf16_s < fp32_s:
        return "bf16-mixed", f"measured faster: {bf16} against {fp32} per forward-backward pass"
    return "fp32", f"measured no slower: {fp32} against {bf16} per forward-backward pass"
