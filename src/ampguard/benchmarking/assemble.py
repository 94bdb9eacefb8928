"""From measurements to trials: each figure beside the reason why one is missing. Nothing divides unguarded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import numpy as np

from ampguard.benchmarking import parity as accuracy
from ampguard.benchmarking.budget import Plan
from ampguard.benchmarking.config import BenchConfig
from ampguard.benchmarking.intervals import speedup
from ampguard.benchmarking.lineup import Lineup
from ampguard.benchmarking.parity_runs import TOO_SLOW
from ampguard.benchmarking.report import Parity, Speedup, StepTimes, Trial
from ampguard.benchmarking.state import State
from ampguard.benchmarking.verdict import targets

WHY_SLOWER = {
    "CPU": "the model is likely too small for it: casting costs more than the faster products save",
    "GPU": "its steps are likely bound by launching kernels, not by arithmetic: try a larger batch or --compile",
}
"""The likely cause of a native precision that is slower."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that a bench measured."""

    config: BenchConfig
    lineup: Lineup
    state: State
    plan: Plan
    outcomes: Mapping[str, Mapping[int, accuracy.Outcome]]
    """Parity runs by precision and seed."""
    memory_reasons: Mapping[str, str]
    """Why a precision's memory is not known."""
    largest_reason: str
    """Why no largest micro-batch was sought; "" where one was."""


def make_trial(name: str, found: Found) -> Trial:
    """Return what was found about a precision. One that failed keeps the figures that it has."""
    status, reason = _status(name, found)
    trial = Trial(precision=name, status=status, reason=reason, parity=_parity(name, found))
    if status == "unsupported":
        return trial
    trial = _with_largest(_with_memory(_with_speed(trial, found), found), found)
    return replace(trial, targets=targets(trial))


def _status(name: str, found: Found) -> tuple[Literal["ok", "unsupported", "failed"], str]:
    if name in found.lineup.unsupported:
        return "unsupported", found.lineup.unsupported[name]
    if name in found.state.race.failures:
        return "failed", found.state.race.failures[name]
    for seed, run in found.outcomes.get(name, {}).items():
        if run.failure:
            return "failed", f"training with seed {seed} failed: {run.failure}"
    return "ok", ""


def _with_speed(trial: Trial, found: Found) -> Trial:
    name, race = trial.precision, found.state.race
    times, base = race.timings.blocks_s.get(name, []), race.timings.blocks_s.get(found.lineup.baseline, [])
    pairs = min(len(times), len(base))
    ratio = speedup(base[:pairs], times[:pairs])
    faster, reasons = Speedup(median=ratio.median, ci95=ratio.ci95), {}
    if name == found.lineup.baseline and times:
        faster = Speedup(median=1.0, ci95=(1.0, 1.0))
    elif ratio.reason:
        failed = race.failures.get(found.lineup.baseline)
        reasons["speedup"] = ratio.reason if failed is None else f"the baseline {found.lineup.baseline} failed"
    step_s = median(times) if times else None
    if step_s is None:
        reasons["step_ms"] = reasons["samples_per_s"] = "no block was measured"
    elif step_s == 0:
        reasons["samples_per_s"] = "a step took no time at all: the clock does not tell"
    elif race.samples is None:
        reasons["samples_per_s"] = "the samples of a batch cannot be counted"
    return replace(
        trial,
        reason=trial.reason or _likely_why(name, found, ratio.median),
        step_ms=StepTimes(
            median=None if step_s is None else step_s * 1e3,
            iqr=float(np.subtract(*np.quantile(times, (0.75, 0.25)))) * 1e3 if times else None,
            n=len(times),
        ),
        samples_ms=tuple(seconds * 1e3 for seconds in times),
        samples_per_s=race.samples / step_s if step_s and race.samples is not None else None,
        data_wait_ms=None if race.data_wait_s is None else race.data_wait_s * 1e3,
        speedup=faster,
        spread=None if name == found.lineup.baseline else ratio.spread,
        skipped_steps=race.skipped.get(name),
        reasons=reasons,
    )


def _likely_why(name: str, found: Found, faster: float | None) -> str:
    """Return the likely cause of a speed that disappoints, and what cut a measurement short."""
    device = found.lineup.device_word
    if name in found.lineup.emulated:
        cut = "; it was stopped when its share of the time was used" if name in found.state.race.capped else ""
        return f"this {device} only emulates it{cut}"
    if faster is None or faster >= 1.0 or name == found.lineup.baseline:
        return ""
    return WHY_SLOWER[device]


def _parity(name: str, found: Found) -> Parity:
    baseline, config = found.lineup.baseline, found.config
    base, other = found.outcomes.get(baseline, {}), found.outcomes.get(name, {})
    metric = accuracy.choose_metric([*base.values(), *other.values()], config.metric)
    if not other or not base or metric is None:
        reason = _why_no_parity(name, found, metric)
        return accuracy.not_measured(reason, metric=metric or config.metric, margin=config.loss_margin)
    parity = accuracy.judge(
        base,
        other,
        metric=metric,
        steps=found.plan.steps,
        accuracy_margin=config.accuracy_margin,
        loss_margin=config.loss_margin,
    )
    if name == baseline:
        why = f"{baseline} is what the others are compared with"
        return replace(
            parity,
            result="not_measured",
            difference=None,
            ci90=None,
            seeds_needed=None,
            largest_gap=None,
            largest_gap_step=None,
            reason=why,
        )
    return parity


def _why_no_parity(name: str, found: Found, metric: str | None) -> str:
    status, reason = _status(name, found)
    if status != "ok":
        return f"it {'cannot run here' if status == 'unsupported' else 'failed'}: {reason}"
    if not found.plan.seeds:
        return found.plan.reason
    if _status(found.lineup.baseline, found)[0] == "failed":
        return f"the baseline {found.lineup.baseline} failed"
    if found.outcomes and metric is None:
        have = sorted({key for runs in found.outcomes.values() for run in runs.values() for key in run.final})
        return f"the runs have no {found.config.metric or 'val/loss'!r}, but {', '.join(have) or 'no metric at all'}"
    if not found.outcomes:
        return "it was interrupted before"
    return TOO_SLOW


def _with_memory(trial: Trial, found: Found) -> Trial:
    name, baseline = trial.precision, found.lineup.baseline
    own, base = found.state.footprints.get(name), found.state.footprints.get(baseline)
    if own is None:
        why = found.memory_reasons.get(name, "it was not measured")
        return replace(trial, reasons={**trial.reasons, "peak_memory_mib": why, "memory_reduction_pct": why})
    reasons, saved = dict(trial.reasons), None
    if own.peak is None:
        reasons["peak_memory_mib"] = reasons["memory_reduction_pct"] = own.reason
    elif base is None or base.peak is None:
        reasons["memory_reduction_pct"] = f"the memory of {baseline} is not known"
    elif base.peak <= 0:
        reasons["memory_reduction_pct"] = f"{baseline} took no memory that shows"
    else:
        saved = 100.0 * (1.0 - own.peak / base.peak)
    return replace(trial, peak_memory_mib=own.peak, memory_mib=own.parts, memory_reduction_pct=saved, reasons=reasons)


def _with_largest(trial: Trial, found: Found) -> Trial:
    largest = found.state.largest.get(trial.precision)
    reason = found.largest_reason or "it was not sought"
    size = None
    if largest is not None:
        size, reason = largest.size, largest.reason
    reasons = {**trial.reasons, "largest_micro_batch": reason} if reason else trial.reasons
    return replace(trial, largest_micro_batch=size, reasons=reasons)
