"""The charts of a bench: block times in the order measured, and what its parity runs logged. Plain numbers."""

from collections.abc import Sequence
from typing import Literal

from ampguard.reporting.bench.read import Bench, Trial
from ampguard.reporting.bench.words import pct
from ampguard.reporting.charts import WIDE, Chart, Gap, Line
from ampguard.reporting.thin import Bucket, Curve, Point

FAR = 4.0
"""Ratio of highest to lowest step time from which the axis is logarithmic."""


def time_chart(bench: Bench) -> Chart | None:
    """Return the step time of every block; None where no block was timed."""
    curves = {trial.precision: _blocks(trial) for trial in bench.trials if trial.samples_ms}
    about = "Time of a step in each timed block, in the order measured; blocks of one number ran side by side."
    return _chart("step-time", "Step time", curves, bench, unit="ms", about=about, across="block", far=FAR)


def loss_chart(bench: Bench) -> Chart | None:
    """Return the training loss of each precision with its seeds; None where nothing was trained."""
    curves = {name: held.loss for name, held in bench.trained.items() if held.loss is not None}
    about = f"Loss of the runs that accuracy is judged by: {_seeds(bench)}."
    gaps = [gap for gap in (_gap(bench, trial, curves) for trial in bench.others) if gap is not None]
    if gaps:
        about += f" Largest gap of the means to {bench.baseline}: {'; '.join(gap.told for gap in gaps)}."
    return _chart("loss", "Training loss", curves, bench, about=about, gaps=gaps, far=WIDE)


def scale_chart(bench: Bench) -> Chart | None:
    """Return the loss scale over the same runs; None where no run has one."""
    curves = {name: held.loss_scale for name, held in bench.trained.items() if held.loss_scale is not None}
    about = "Factor that keeps fp16 gradients from underflow; it is halved after a skipped step."
    return _chart("loss-scale", "Loss scale", curves, bench, about=about, axis="log2")


def _seeds(bench: Bench) -> str:
    counts = {name: len(held.seeds) for name, held in bench.trained.items()}
    every = set(counts.values())
    if len(every) == 1:
        (each,) = every
        return f"{each} seed{'' if each == 1 else 's'} each"
    return ", ".join(f"{number} of {name}" for name, number in counts.items())


def _blocks(trial: Trial) -> Curve:
    curve = Curve()
    curve.add(range(1, len(trial.samples_ms) + 1), trial.samples_ms)
    return curve


def _chart(
    id: str,
    title: str,
    curves: dict[str, Curve],
    bench: Bench,
    *,
    about: str,
    unit: str = "",
    axis: Literal["linear", "log2"] = "linear",
    across: str = "step",
    gaps: Sequence[Gap] = (),
    far: float = float("inf"),
) -> Chart | None:
    """Return a chart of one line a precision; far: the ratio of values from which its axis is logarithmic."""
    lines = tuple(_line(trial, curves[trial.precision], title) for trial in bench.trials if trial.precision in curves)
    if not lines:
        return None
    low, high = min(line.whole.low[1] for line in lines), max(line.whole.high[1] for line in lines)
    is_wide = low > 1e-200 and high / low > far and high < 1e200
    kind = "linear" if low < 1e-200 or high > 1e200 else axis
    return Chart(
        id=id,
        title=title,
        unit=unit,
        axis="log" if is_wide else kind,
        about=about,
        lines=lines,
        steps=(min(line.whole.first[0] for line in lines), max(line.whole.last[0] for line in lines)),
        across=across,
        means_of="all seeds" if across == "step" else "each range of blocks",
        gaps=tuple(gaps),
    )


def _line(trial: Trial, curve: Curve, key: str) -> Line:
    buckets = curve.buckets
    agree = all(bucket.low[1] == bucket.high[1] for bucket in buckets)
    points: list[Point] = [(bucket.first[0], bucket.mean) for bucket in buckets]
    return Line(
        key=key,
        name=trial.precision,
        run=0,
        style=trial.style,
        points=points,
        # Values that all agree, those of a single seed too, need no band.
        buckets=() if agree else buckets,
        count=curve.count,
        whole=_whole(curve),
    )


def _whole(curve: Curve) -> Bucket:
    """Return the extremes of all seeds, and for first and last the means over them."""
    first, last, whole = curve.buckets[0], curve.buckets[-1], curve.whole
    return whole._replace(first=(first.first[0], first.mean), last=(last.last[0], last.mean))


def _gap(bench: Bench, trial: Trial, curves: dict[str, Curve]) -> Gap | None:
    """Return where a precision's mean loss is furthest from the baseline's, if bench.json and the curves tell."""
    step, size = trial.parity.largest_gap_step, trial.parity.largest_gap
    base, own = (_mean_at(curves.get(name), step) for name in (bench.baseline, trial.precision))
    if step is None or size is None or base is None or own is None:
        return None
    return Gap(step=step, values=(base, own), style=trial.style, told=f"{trial.precision} {pct(size)} at step {step:,}")


def _mean_at(curve: Curve | None, step: int | None) -> float | None:
    if curve is None or step is None:
        return None
    return next((held.mean for held in curve.buckets if held.first[0] <= step <= held.last[0]), None)
