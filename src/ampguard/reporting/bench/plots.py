"""What the plots of a bench show, as plain numbers: intervals over precisions, and stacks of memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Final, Literal, TypeGuard

from ampguard.reporting.bench.read import PARTS, Bench, Trial
from ampguard.reporting.bench.words import mib, plainly, signed, span, times

TARGET: Final = 1.5
"""The speed-up that mixed precision is hoped to give."""

WIDE: Final = 4.0
"""Ratio of highest to lowest value from which the axis of speed-ups is logarithmic."""

BEYOND: Final = 1e9
"""Ratios and differences from here on, and ratios under one in so many, have no place on a plot: tables have them."""

FENCE: Final = 3.0
"""Interquartile ranges around the middle half from which a raw value stands at the edge of the plot."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One dot with its interval, and the raw values beneath."""

    name: str
    style: int
    middle: float | None
    """None: there is an interval only."""
    ends: tuple[float, float] | None
    raw: tuple[float, ...]
    """In the order measured."""
    told: str
    """The figures in words."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """A plot of dots and intervals."""

    id: str
    title: str
    about: str
    axis: Literal["linear", "log"]
    unit: str
    rows: tuple[Row, ...]
    lines: tuple[tuple[float, str], ...]
    """(value, label) of what to compare with."""
    band: tuple[float, float] | None = None
    """What lies in it is good."""

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and highest value that has a place: all but raw values far from the others."""
        values = [value for value, _ in self.lines] + list(self.band or ())
        for row in self.rows:
            values += [row.middle] if row.middle is not None else []
            values += [*(row.ends or ()), *near(row.raw)]
        return min(values), max(values)

    @property
    def outside(self) -> int:
        """How many raw values stand at the edge."""
        low, high = self.span
        return sum(not low <= value <= high for row in self.rows for value in row.raw)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the memory of a precision goes."""

    name: str
    parts: tuple[tuple[str, float], ...]
    """(part, MiB), of those that are known."""
    peak: float | None
    told: str

    @property
    def total(self) -> float:
        """How far the stack, or its peak, reaches."""
        return max(sum(size for _, size in self.parts), self.peak or 0.0)


def near(values: Sequence[float]) -> list[float]:
    """Return the values that are not far from the middle half of all."""
    if len(values) < 4:
        return list(values)
    low, _, high = quantiles(values, n=4, method="inclusive")
    reach = FENCE * (high - low)
    return [value for value in values if low - reach <= value <= high + reach]


def ratios(base: Trial, trial: Trial) -> list[float]:
    """Return how many times as fast each block of a trial was as the baseline's block beside it."""
    pairs = zip(base.samples_ms, trial.samples_ms, strict=False)
    return [ratio for ratio in (there / here for there, here in pairs if here > 0) if _is_ratio(ratio)]


def _is_ratio(value: float | None) -> TypeGuard[float]:
    return value is not None and 1 / BEYOND < value < BEYOND


def _is_difference(value: float | None) -> TypeGuard[float]:
    return value is not None and abs(value) < BEYOND


def speed_plot(bench: Bench) -> Intervals | None:
    """Return the speed-ups over the baseline; None where there is none."""
    base = bench.base
    rows = [_speed_row(trial, base) for trial in bench.others if _is_ratio(trial.speedup)]
    if not rows:
        return None
    plot = Intervals(
        id="speed-up",
        title="Speed-up",
        about=f"How many times as fast as {bench.baseline}: the median of the blocks measured side by side, with its "
        "95 % interval. Small dots: each pair of blocks, the first at the top. The lines stand at 1 (as fast) and at "
        f"{TARGET:g} (the target).",
        axis="linear",
        unit="x",
        rows=tuple(rows),
        lines=((1.0, "1x"), (TARGET, f"{TARGET:g}x")),
    )
    low, high = plot.span
    return _on_log_axis(plot) if low > 0 and high / low > WIDE else plot


def _on_log_axis(plot: Intervals) -> Intervals:
    return Intervals(**{**vars(plot), "axis": "log", "about": f"{plot.about} Logarithmic axis."})


def _speed_row(trial: Trial, base: Trial | None) -> Row:
    ends = trial.ci95 if trial.ci95 is not None and all(map(_is_ratio, trial.ci95)) else None
    interval = "no interval" if ends is None else f"{times(ends[0])} to {times(ends[1])}"
    return Row(
        name=_speed_name(trial),
        style=trial.style,
        middle=trial.speedup,
        ends=ends,
        raw=tuple(ratios(base, trial)) if base is not None else (),
        told=f"{times(trial.speedup)} ({interval})",
    )


def _speed_name(trial: Trial) -> str:
    if trial.status != "ok":
        return f"{trial.precision}: {trial.status}"
    return f"{trial.precision}: too noisy" if trial.is_too_noisy else trial.precision


def parity_plots(bench: Bench) -> list[Intervals]:
    """Return the differences to the baseline: a plot for each metric and margin."""
    judged = [trial for trial in bench.others if _is_difference(trial.parity.difference)]
    kinds = dict.fromkeys((t.parity.metric, t.parity.kind, t.parity.margin) for t in judged)
    return [
        _parity_plot(bench, at, [t for t in judged if (t.parity.metric, t.parity.kind, t.parity.margin) == kind])
        for at, kind in enumerate(kinds)
    ]


def _parity_plot(bench: Bench, at: int, trials: Sequence[Trial]) -> Intervals:
    parity = trials[0].parity
    margin = parity.margin * parity.factor if _is_difference(parity.margin) else None
    own = _own_row(bench, trials)
    relative = "" if parity.kind == "absolute" else ", relative to it"
    within = "" if margin is None else f" Equivalent is an interval within the band of ±{margin:g}{parity.unit}."
    beside = f" {bench.baseline}'s own seeds lie as far apart as its bar shows." if own is not None else ""
    return Intervals(
        id=f"parity-{at}",
        title=f"Difference in {parity.metric}",
        about=f"To {bench.baseline} from the same seed{relative}: the mean with its 90 % interval; right of 0 is "
        f"higher. Small dots: each seed.{within}{beside}",
        axis="linear",
        unit=parity.unit,
        rows=(*([own] if own is not None else []), *(_parity_row(bench, trial) for trial in trials)),
        lines=((0.0, ""),),
        band=None if margin is None else (-margin, margin),
    )


def _own_row(bench: Bench, trials: Sequence[Trial]) -> Row | None:
    """Return how far the baseline's own seeds lie apart: one standard deviation to either side of their mean."""
    base, parity = bench.base, trials[0].parity
    spread = parity.baseline_spread
    if base is None or not _is_difference(spread):
        return None
    held = bench.trained.get(bench.baseline)
    finals = list(held.finals.values()) if held is not None else []
    mean = fmean(finals) if finals else 0.0
    raw = [_shown(value, mean, parity.kind) for value in finals]
    return Row(
        name=f"{bench.baseline}, its own seeds",
        style=base.style,
        middle=None,
        ends=(-spread * parity.factor, spread * parity.factor),
        raw=tuple(value for value in raw if _is_difference(value)),
        told=f"±{spread * parity.factor:.2g}{parity.unit} (1 standard deviation)",
    )


def _parity_row(bench: Bench, trial: Trial) -> Row:
    parity = trial.parity
    known = parity.ci90 if parity.ci90 is not None and all(map(_is_difference, parity.ci90)) else None
    ends = None if known is None else (known[0] * parity.factor, known[1] * parity.factor)
    middle = None if parity.difference is None else parity.difference * parity.factor
    figure = "" if middle is None else signed(middle, parity.unit)
    interval = "no interval" if ends is None else span(ends, parity.unit)
    return Row(
        name=f"{trial.precision}: {plainly(parity.result)}",
        style=trial.style,
        middle=middle,
        ends=ends,
        raw=tuple(_paired(bench, trial)),
        told=f"{figure} ({interval})",
    )


def _paired(bench: Bench, trial: Trial) -> Iterable[float]:
    """Yield each seed's difference to the baseline's run of that seed."""
    own, base = bench.trained.get(trial.precision), bench.trained.get(bench.baseline)
    if own is None or base is None:
        return
    for seed in own.finals.keys() & base.finals.keys():
        shown = _shown(own.finals[seed], base.finals[seed], trial.parity.kind)
        if _is_difference(shown):
            yield shown


def _shown(value: float, base: float, kind: str) -> float | None:
    if kind == "absolute":
        return value - base
    return 100.0 * (value - base) / abs(base) if base else None


def stacks(bench: Bench) -> list[Stack]:
    """Return where memory goes, of each precision whose memory is known."""
    found = [_stack(trial) for trial in bench.trials if trial.peak_mib is not None or trial.parts]
    return [stack for stack in found if stack.total > 0]


def _stack(trial: Trial) -> Stack:
    saved = trial.saved_pct
    less = "" if saved is None or trial.is_baseline else f", {abs(saved):.0f} % {'more' if saved < 0 else 'less'}"
    return Stack(
        name=trial.precision,
        parts=tuple((part, trial.parts[part]) for part in PARTS if trial.parts.get(part, 0.0) > 0),
        peak=trial.peak_mib,
        told=f"peak {mib(trial.peak_mib)}{less}" if trial.peak_mib is not None else "peak unknown",
    )
