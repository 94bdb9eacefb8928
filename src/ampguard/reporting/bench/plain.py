"""A bench as plain numbers: the JSON of `ampguard report BENCH --format json`."""

from typing import Any

from ampguard.reporting.bench.read import Bench
from ampguard.reporting.bench.trained import Trained
from ampguard.reporting.plain import json_safe
from ampguard.reporting.thin import Curve


def as_dict(bench: Bench) -> dict[str, Any]:
    """Return bench.json, and under "trained" what the parity runs logged."""
    held: dict[str, Any] = json_safe(bench.values)
    return {**held, "trained": {name: _trained(runs) for name, runs in bench.trained.items()}}


def _trained(runs: Trained) -> dict[str, Any]:
    return {
        "seeds": list(runs.seeds),
        "final": {str(seed): value for seed, value in runs.finals.items()},
        "train/loss": _curve(runs.loss),
        "amp/loss_scale": _curve(runs.loss_scale),
    }


def _curve(curve: Curve | None) -> list[dict[str, float]] | None:
    """Return the mean, lowest and highest value of all seeds by step."""
    if curve is None:
        return None
    return [
        {"step": bucket.first[0], "mean": bucket.mean, "lowest": bucket.low[1], "highest": bucket.high[1]}
        for bucket in curve.buckets
    ]
