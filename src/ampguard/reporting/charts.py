"""Which charts a report has: what each shows, on which axis, from which metrics. Plain numbers; nothing is drawn here.

A chart whose metrics no run has is left out. One run shows metrics that belong together in one chart; with several
runs each metric has its own, so that a line's colour and dash always mean the run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ampguard.reporting.events import Mark
from ampguard.reporting.metrics import COUNTERS
from ampguard.reporting.run import Run
from ampguard.reporting.thin import Bucket, Point

AxisKind = Literal["linear", "log", "log2", "auto"]

WIDE = 300.0
"""Ratio of highest to lowest value from which an "auto" axis is logarithmic."""

SPARSE = 40
"""Points up to which each is marked."""

OTHERS = 60
"""Charts of metrics that no kind names, at most."""

SKIPS = ("amp/loss_scale", "train/loss", "train/grad_norm")
"""Metrics on whose charts skipped steps are marked."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of chart."""

    title: str
    metrics: tuple[tuple[str, str], ...]
    """(key, name in the legend)"""
    unit: str = ""
    axis: AxisKind = "auto"
    about: str
    """What it shows, in a sentence."""


KINDS: Final = (
    Kind(
        title="Loss",
        metrics=(("train/loss", "training"), ("val/loss", "validation")),
        about="Loss of each logged step over its whole batch, and of each validation.",
    ),
    Kind(
        title="Learning rate",
        metrics=(("train/lr", "learning rate"),),
        axis="linear",
        about="Learning rate of the first parameter group.",
    ),
    Kind(
        title="Gradient norm",
        metrics=(("train/grad_norm", "gradient norm"),),
        axis="log",
        about="Global L2 norm of the unscaled gradients, before clipping.",
    ),
    Kind(
        title="Loss scale",
        metrics=(("amp/loss_scale", "loss scale"),),
        axis="log2",
        about="Factor that keeps fp16 gradients from underflow; it is halved after a skipped step.",
    ),
    Kind(
        title="Throughput",
        metrics=(("throughput/samples_per_s", "samples/s"),),
        unit="samples/s",
        axis="linear",
        about="Samples trained per second since the row before.",
    ),
    Kind(
        title="Token throughput",
        metrics=(("throughput/tokens_per_s", "tokens/s"),),
        unit="tokens/s",
        axis="linear",
        about="Tokens trained per second since the row before.",
    ),
    Kind(
        title="Step time",
        metrics=(("time/step_ms", "step"), ("time/data_wait_ms", "of it, waiting for data")),
        unit="ms",
        about="Mean time of a step since the row before, and the part of it that was spent waiting for data.",
    ),
    Kind(
        title="Memory",
        metrics=(("memory/peak_allocated_mib", "peak allocated"),),
        unit="MiB",
        axis="linear",
        about="Highest memory that tensors held on the device so far.",
    ),
    Kind(
        title="Model FLOPs utilisation",
        metrics=(("throughput/mfu_pct", "MFU"),),
        unit="%",
        axis="linear",
        about="Share of the device's peak rate that the model's own operations reach.",
    ),
)
"""Charts of the metrics that a run writes by itself, in the order of the page."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart."""

    key: str
    name: str
    """What the legend calls it: the metric in a report of one run, else the run."""
    run: int
    """Which run it is of."""
    style: int
    """Colour, dash and marker."""
    points: Sequence[Point]
    buckets: Sequence[Bucket]
    """Ranges of steps, where the line is too long for its points to be drawn; else empty."""
    count: int
    """Values that the points stand for."""
    whole: Bucket
    """First, last, lowest and highest of all."""

    @property
    def marked(self) -> bool:
        """Whether each point has a marker: where there are few."""
        return len(self.points) <= SPARSE

    @property
    def trend(self) -> list[tuple[float, float]]:
        """What is drawn: the points, or the means of ranges."""
        if self.buckets:
            return [(bucket.middle, bucket.mean) for bucket in self.buckets]
        return list(self.points)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A distance between two lines."""

    step: int
    values: tuple[float, float]
    """Its ends."""
    style: int
    told: str
    """What it is, in words."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What one figure shows."""

    id: str
    title: str
    unit: str
    axis: Literal["linear", "log", "log2"]
    about: str
    lines: tuple[Line, ...]
    steps: tuple[int, int]
    """First and last step of the horizontal axis: the same for every chart of a report."""
    skips: tuple[tuple[int, Mark], ...] = ()
    """(run, mark) of skipped steps."""
    across: str = "step"
    """What the horizontal axis counts."""
    means_of: str = "each range of steps"
    """What a line with a band is the mean of."""
    gaps: tuple[Gap, ...] = ()
    """Distances between lines that are marked."""

    @property
    def values(self) -> tuple[float, float]:
        """The lowest and highest value of any line."""
        return min(line.whole.low[1] for line in self.lines), max(line.whole.high[1] for line in self.lines)


def make_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of a report, in order, those of unknown metrics last."""
    kinds = [*KINDS, *_others(runs)]
    if len(runs) > 1:
        kinds = [single for kind in kinds for single in _singles(kind)]
    charts = [_chart(number, kind, runs) for number, kind in enumerate(kinds)]
    return [chart for chart in charts if chart is not None]


def other_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that no kind of chart names: the Task's own, validation first."""
    known = {key for kind in KINDS for key, _ in kind.metrics} | set(COUNTERS)
    found = {key for run in runs for key in run.metrics.curves} - known
    return sorted(found, key=lambda key: (not key.startswith("val/"), key))


def _others(runs: Sequence[Run]) -> list[Kind]:
    return [
        Kind(title=key, metrics=((key, key),), about=f"The metric {key} as the run logged it.")
        for key in other_metrics(runs)[:OTHERS]
    ]


def _singles(kind: Kind) -> Iterable[Kind]:
    if len(kind.metrics) == 1:
        return [kind]
    return [
        Kind(title=f"{kind.title}: {name}", metrics=((key, name),), unit=kind.unit, axis=kind.axis, about=kind.about)
        for key, name in kind.metrics
    ]


def _chart(number: int, kind: Kind, runs: Sequence[Run]) -> Chart | None:
    several = len(runs) > 1
    lines = [
        _line(run, at, key, run.label if several else name, at if several else style)
        for at, run in enumerate(runs)
        for style, (key, name) in enumerate(kind.metrics)
        if key in run.metrics.curves
    ]
    if not lines:
        return None
    marked = any(key in SKIPS for key, _ in kind.metrics)
    skips = [(at, mark) for at, run in enumerate(runs) for mark in run.events.marks_of("skip")] if marked else []
    return Chart(
        id=f"chart-{number}",
        title=kind.title,
        unit=kind.unit,
        axis=_axis(kind.axis, lines),
        about=kind.about,
        lines=tuple(lines),
        steps=_steps(runs),
        skips=tuple(skips),
    )


def _steps(runs: Sequence[Run]) -> tuple[int, int]:
    """Return the first and last step of any row."""
    firsts = [run.metrics.first_step for run in runs if run.metrics.first_step is not None]
    lasts = [run.metrics.last_step for run in runs if run.metrics.last_step is not None]
    return min(firsts), max(lasts)


def _line(run: Run, at: int, key: str, name: str, style: int) -> Line:
    curve = run.metrics.curves[key]
    return Line(
        key=key,
        name=name,
        run=at,
        style=style,
        points=curve.points,
        buckets=curve.buckets if curve.thinned else (),
        count=curve.count,
        whole=curve.whole,
    )


def _axis(kind: AxisKind, lines: Sequence[Line]) -> Literal["linear", "log", "log2"]:
    """Return the axis that the values can stand on: a logarithm takes positive ones only."""
    low = min(line.whole.low[1] for line in lines)
    high = max(line.whole.high[1] for line in lines)
    if kind == "linear" or low < 1e-200 or high > 1e200:
        return "linear"
    if kind == "auto":
        # By the first metric: waiting for data, beside a step's time, may come close to nothing.
        wide = any(line.whole.high[1] / line.whole.low[1] > WIDE for line in lines if line.key == lines[0].key)
        return "log" if wide else "linear"
    return kind
