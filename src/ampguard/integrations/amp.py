"""What the doors share: the `amp/*` figures of a guard, or of whatever a framework has in its place.

A scaler may be absent, None, disabled, or stand at 0.0 or 1e10: it is reported as it is, and never crashes a run. Where
there is nothing to report a key is absent.
"""

import math
from typing import Any

from ampguard.engine import Guard
from ampguard.errors import ConfigError, PrecisionError
from ampguard.precision import IMPLEMENTED, canonical, policy_of


def guard_metrics(guard: Guard) -> dict[str, float | int]:
    """Return the `amp/*` figures of a guard's last step, and its loss and gradient norm; {} before the first.

    Sync: one, if a step was taken since the last read.
    """
    try:
        record = guard.read()
    except ConfigError:
        # No step was taken yet, or none since a checkpoint was loaded.
        return {}
    return record.metrics(enabled=guard.decision.policy.autocasts)


def observed_metrics(scaler: Any, precision: object) -> dict[str, float | int]:
    """Return what can be told without a guard: `amp/enabled` and, with an enabled scaler, `amp/loss_scale`.

    Args:
        scaler: A GradScaler of any kind, or None.
        precision: The framework's own spelling; one that is unknown leaves `amp/enabled` out.

    Sync: one, with a scaler on an accelerator.
    """
    enabled, scale = autocasts(precision), scale_of(scaler)
    metrics: dict[str, float | int] = {} if enabled is None else {"amp/enabled": int(enabled)}
    return metrics if scale is None else {**metrics, "amp/loss_scale": scale}


def scale_of(scaler: Any) -> float | None:
    """Return the loss scale of a scaler as it is, 0.0 included; None if it is None, disabled, no scaler, or not finite.

    Sync: one, where the scale lives on an accelerator.
    """
    if not (hasattr(scaler, "is_enabled") and hasattr(scaler, "get_scale")) or not scaler.is_enabled():
        return None
    scale = float(scaler.get_scale())
    return scale if math.isfinite(scale) else None


def autocasts(precision: object) -> bool | None:
    """Return whether a precision, in anybody's spelling, computes in fewer bits than fp32; None: it is unknown."""
    try:
        name = canonical(precision)
    except PrecisionError:
        return None
    return policy_of(name).autocasts if name in IMPLEMENTED else None
