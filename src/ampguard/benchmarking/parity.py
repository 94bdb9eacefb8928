"""Accuracy: the same seeds in every precision, trained as `ampguard train` trains, and compared in pairs."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from ampguard.benchmarking.equivalence import MIN_SEEDS, equivalence
from ampguard.benchmarking.report import Parity
from ampguard.errors import RunFolderError
from ampguard.run_folder import parse_row, read_record

SHARES = frozenset(
    ("accuracy", "acc", "error", "precision", "recall", "f1", "auc", "auroc", "iou", "miou", "dice", "top1", "top5")
)
"""Words in the name of a metric that is a share of one. A loss may lie in [0, 1], too, and is none."""

Kind = Literal["absolute", "relative"]

CURVE_POINTS = 50
"""Rows of training loss that each run logs."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One parity run that ended."""

    final: Mapping[str, float]
    """Last value of each metric."""
    curve: tuple[tuple[int, float], ...]
    """(step, training loss)."""
    loss_scale: tuple[tuple[int, float], ...] = ()
    """(step, loss scale)."""
    failure: str = ""
    """Why it failed; "" where it did not."""


def read_outcome(folder: Path) -> Outcome | None:
    """Return what a finished run folder holds; None for one that is missing or not finished."""
    try:
        record = read_record(folder)
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    except (OSError, RunFolderError):
        return None
    if record is None or record.get("status") != "finished":
        return None
    rows = [row for row in (parse_row(line + b"\n") for line in lines) if row is not None]
    final = {name: value for name, value in record["final"].items() if value is not None and math.isfinite(value)}
    return Outcome(final=final, curve=_series(rows, "train/loss"), loss_scale=_series(rows, "amp/loss_scale"))


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[int, float], ...]:
    return tuple((row["step"], float(row[key])) for row in rows if key in row)


def choose_metric(outcomes: Sequence[Outcome], asked: str | None) -> str | None:
    """Return the metric to judge by: what was asked, else val/accuracy, else val/loss; None where no run has it."""
    names = {name for outcome in outcomes for name in outcome.final}
    order = (asked,) if asked is not None else ("val/accuracy", "val/loss")
    return next((name for name in order if name in names), None)


def judge(
    baseline: Mapping[int, Outcome],
    other: Mapping[int, Outcome],
    *,
    metric: str,
    steps: int,
    accuracy_margin: float,
    loss_margin: float,
) -> Parity:
    """Compare a precision's runs with the baseline's, seed by seed.

    Args:
        baseline: Outcome by seed.
        other: Outcome by seed.
        metric: Compared: by its difference if it is a share such as an accuracy, else by its relative difference.
        steps: Optimizer steps of each run.
        accuracy_margin: For the first kind.
        loss_margin: For the second.
    """
    kind: Kind = "absolute" if _is_share(metric, baseline) else "relative"
    margin = accuracy_margin if kind == "absolute" else loss_margin
    seeds = [seed for seed in sorted(baseline.keys() & other.keys()) if _has(baseline[seed], other[seed], metric)]
    pairs = [(baseline[seed].final[metric], other[seed].final[metric]) for seed in seeds]
    differences = [_difference(base, value, kind) for base, value in pairs]
    found = equivalence(differences, margin)
    gap = largest_gap([baseline[seed].curve for seed in seeds], [other[seed].curve for seed in seeds])
    return Parity(
        metric=metric,
        kind=kind,
        seeds=found.seeds,
        steps=steps,
        difference=found.difference,
        ci90=found.ci90,
        margin=margin,
        result=found.result,
        seeds_needed=found.seeds_needed,
        baseline_spread=_spread([base for base, _ in pairs], kind),
        largest_gap=gap[0] if gap else None,
        largest_gap_step=gap[1] if gap else None,
        reason=_why_not(baseline, pairs, metric) if found.result == "not_measured" else found.reason,
    )


def not_measured(reason: str, *, metric: str | None = None, margin: float) -> Parity:
    """Return the parity of a precision that was not compared."""
    return Parity(
        metric=metric or "val/loss", kind="relative", seeds=0, steps=0, difference=None, ci90=None, margin=margin,
        result="not_measured", seeds_needed=None, reason=reason,
    )  # fmt: skip


def _why_not(baseline: Mapping[int, Outcome], pairs: Sequence[tuple[float, float]], metric: str) -> str:
    """Return why pairs gave no verdict."""
    if any(base == 0 for base, _ in pairs):
        return f"the baseline's {metric} is 0, and a relative difference to 0 does not exist"
    lost = len(baseline) - len(pairs)
    missing = f"{metric} is missing or not finite in {lost} of {len(baseline)} pairs of runs; " if lost else ""
    return f"{missing}a verdict needs {MIN_SEEDS} seeds, and there are {len(pairs)}"


def _has(one: Outcome, two: Outcome, metric: str) -> bool:
    return not one.failure and not two.failure and metric in one.final and metric in two.final


def _is_share(metric: str, outcomes: Mapping[int, Outcome]) -> bool:
    """Return whether a metric is a share of one: by its name, and by values that lie in [0, 1]."""
    values = [outcome.final[metric] for outcome in outcomes.values() if metric in outcome.final]
    named = SHARES.intersection(re.split("[/_]", metric))
    return bool(named) and bool(values) and all(0.0 <= value <= 1.0 for value in values)


def _difference(base: float, value: float, kind: Kind) -> float:
    if kind == "absolute":
        return value - base
    # A baseline of exactly 0 has no relative difference: NaN is what `equivalence` calls not measured.
    return (value - base) / abs(base) if base else math.nan


def _spread(values: Sequence[float], kind: Kind) -> float | None:
    if len(values) < 2:
        return None
    if kind == "absolute":
        return stdev(values)
    mean = abs(fmean(values))
    return stdev(values) / mean if mean else None


def largest_gap(
    baseline: Sequence[Sequence[tuple[int, float]]], other: Sequence[Sequence[tuple[int, float]]]
) -> tuple[float, int] | None:
    """Return (gap, step) where the mean losses of two precisions are furthest apart, relatively, or None."""
    base, mean = _mean_curve(baseline), _mean_curve(other)
    gaps = [(abs(mean[step] - base[step]) / abs(base[step]), step) for step in base.keys() & mean.keys() if base[step]]
    return max(gaps, default=None)


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for curve in curves:
        for step, loss in curve:
            values.setdefault(step, []).append(loss)
    return {step: fmean(losses) for step, losses in values.items() if len(losses) == len(curves)}
