"""The figures of a search as inline SVG: history, importance, parallel coordinates, slices, intermediate values."""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from ampguard.reporting.study.read import Study, Trial
from ampguard.reporting.study.scales import Ordinals, Scale, metric_scale, scale_of
from ampguard.reporting.svg import element, joined, marker, path
from ampguard.reporting.words import number

WIDTH: Final = 420.0
HEIGHT: Final = 214.0
LEFT: Final = 56.0
RIGHT: Final = 408.0
TOP: Final = 14.0
BOTTOM: Final = 188.0
ROW: Final = 26.0
"""Height of a bar of importance."""
BAR: Final = 130.0
"""Where bars begin: room for names."""
GAP: Final = 150.0
"""Between two axes of the parallel coordinates, at least."""
LABEL_ROOM: Final = 72.0
"""Beside the last of them, for its labels: "0.00123" at the size of a tick, and some."""


def draw_history(study: Study) -> Markup:
    """Return each trial's value by its number, the best so far, and the default."""
    shown = [trial for trial in study.trials if trial.value is not None]
    values = metric_scale([trial.value for trial in shown if trial.value is not None])
    numbers = Ordinals([trial.number for trial in study.trials])
    dots = [_dot(study, trial, _x(numbers.share(trial.number)), _y(values.share(trial.value))) for trial in shown]
    failed = [_failure(trial, _x(numbers.share(trial.number))) for trial in study.trials if trial.state == "failed"]
    parts = [_axes(numbers, values, "trial"), *failed, *_default_line(study, values)]
    if study.complete:
        parts.append(element("path", class_="line s2 solid", d=_best_so_far(study, numbers, values)))
    return _figure("History", f"{study.metric} of each trial by its number", *parts, *dots)


def _best_so_far(study: Study, numbers: Scale, values: Scale) -> str:
    at: list[tuple[float, float]] = []
    best: float | None = None
    for trial in study.complete:
        if trial.value is not None and (best is None or study.better(trial.value, best)):
            best = trial.value
            at.append((_x(numbers.share(trial.number)), _y(values.share(best))))
    return path([*at, (RIGHT, at[-1][1])], stepped=True)


def _default_line(study: Study, values: Scale) -> list[Markup]:
    if study.default_value is None:
        return []
    y = _y(values.share(study.default_value))
    return [element("line", class_="default-line", x1=LEFT, x2=RIGHT, y1=y, y2=y)]


def _failure(trial: Trial, x: float) -> Markup:
    told = element("title", f"trial {trial.number} failed: {trial.reason}")
    return element("path", told, class_="failed", d=marker(2, x, BOTTOM - 5, 3.5))


def draw_importance(study: Study) -> Markup:
    """Return a bar for each parameter, the most important first."""
    shares = sorted((study.shares or {}).items(), key=lambda item: -item[1])
    bars = []
    for row, (name, share) in enumerate(shares):
        y, width = TOP + row * ROW, max(1.5, (RIGHT - BAR - 46) * share)
        bars += [
            element("text", _short(name), class_="label", x=BAR - 8, y=y + 13, text_anchor="end"),
            element("rect", class_="bar-of", x=BAR, y=y, width=width, height=ROW - 8),
            element("text", f"{share:.0%}", class_="label", x=BAR + width + 6, y=y + 13),
        ]
    height = TOP + max(1, len(shares)) * ROW
    return _figure("Importance", f"Importance by {study.method}", *bars, height=height)


def draw_parallel(study: Study) -> Markup:
    """Return a line for each complete trial across all parameters to its value; the best is drawn over the others."""
    scales = {name: scale for name in study.names if (scale := scale_of(study, name)) is not None}
    values = metric_scale([trial.value for trial in study.complete if trial.value is not None])
    axes: list[tuple[str, Scale]] = [*scales.items(), (study.metric, values)]
    right = max(RIGHT, LEFT + GAP * len(scales))
    places = [LEFT + (right - LEFT) * at / max(1, len(scales)) for at in range(len(axes))]
    whole = [trial for trial in study.complete if all(name in trial.params for name in scales)]
    whole.sort(key=lambda trial: (trial.number == study.best, trial.is_default))
    lines = []
    for trial in whole:
        shares = [scale.share(trial.params[name]) for name, scale in scales.items()]
        at = [(x, _y(share)) for x, share in zip(places, [*shares, values.share(trial.value)], strict=True)]
        told = element("title", _told(study, trial))
        lines.append(element("path", told, class_=f"thread {_kind(study, trial)}", d=path(at)))
    drawn = [_upright(x, name, scale) for x, (name, scale) in zip(places, axes, strict=True)]
    about = "Parameters and value of each complete trial"
    # Labels stand to the right of their axis, those of the last one too.
    return _figure("Parallel coordinates", about, *lines, *drawn, width=right + LABEL_ROOM, height=HEIGHT + 8)


def _upright(x: float, name: str, scale: Scale) -> Markup:
    labels = [
        element("text", _short(text), class_="tick halo", x=x + 5, y=_y(share) + 3.5) for share, text in scale.labels(4)
    ]
    line = element("line", class_="axis", x1=x, x2=x, y1=TOP, y2=BOTTOM)
    return joined(
        [line, *labels, element("text", _short(name), class_="label", x=x, y=BOTTOM + 20, text_anchor="middle")]
    )


def draw_slice(study: Study, name: str) -> Markup:
    """Return the value of each trial by one of its parameters."""
    shown = [trial for trial in study.trials if trial.value is not None and name in trial.params]
    scale = scale_of(study, name)
    if scale is None or not shown:
        return Markup("")
    values = metric_scale([trial.value for trial in shown if trial.value is not None])
    at = [(_x(scale.share(trial.params[name])), _y(values.share(trial.value))) for trial in shown]
    dots = [_dot(study, trial, x, y) for trial, (x, y) in zip(shown, at, strict=True)]
    failed = [
        _failure(trial, _x(scale.share(trial.params[name])))
        for trial in study.trials
        if trial.state == "failed" and name in trial.params
    ]
    return _figure(name, f"{study.metric} by {name}", _axes(scale, values, ""), *failed, *dots)


def draw_intermediate(study: Study) -> Markup:
    """Return the value of each trial at each of its validations."""
    curves = sorted((trial for trial in study.trials if trial.curve), key=lambda trial: trial.number == study.best)
    values = metric_scale([value for trial in curves for _, value in trial.curve])
    validations = Ordinals([at for trial in curves for at, _ in trial.curve])
    lines = []
    for trial in curves:
        at = [(_x(validations.share(step)), _y(values.share(value))) for step, value in trial.curve]
        kind = _kind(study, trial)
        lines.append(element("path", element("title", _told(study, trial)), class_=f"thread {kind}", d=path(at)))
        lines.append(element("path", class_=f"end {kind}", d=marker(0, *at[-1], 2.2)))
    return _figure("Intermediate values", f"{study.metric} at each validation", _axes(validations, values, ""), *lines)


def swatch(kind: str) -> Markup:
    """Return the sign that a legend shows for a kind of trial."""
    shape = marker(2 if kind == "failed" else 0, 7, 6, 3.5)
    return element("svg", element("path", class_=_sign(kind), d=shape), class_="swatch sign", viewBox="0 0 14 12")


def _sign(kind: str) -> str:
    return "failed" if kind == "failed" else f"point {kind}"


def _kind(study: Study, trial: Trial) -> str:
    if trial.number == study.best:
        return "best"
    return "default" if trial.is_default else trial.state


def _dot(study: Study, trial: Trial, x: float, y: float) -> Markup:
    told = element("title", _told(study, trial))
    kind = _kind(study, trial)
    return element("path", told, class_=f"point {kind}", d=marker(0, x, y, 4.5 if kind == "best" else 3.0))


def _told(study: Study, trial: Trial) -> str:
    params = ", ".join(f"{name} {_value(value)}" for name, value in trial.params.items())
    default = "default, " if trial.is_default else ""
    return f"trial {trial.number}: {default}{trial.state}, {study.metric} {number(trial.value)}; {params}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def _axes(across: Scale, up: Scale, unit: str) -> Markup:
    drawn = [element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM)]
    for share, text in up.labels(5):
        drawn.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=_y(share), y2=_y(share)))
        drawn.append(element("text", text, class_="tick", x=LEFT - 6, y=_y(share) + 3.5, text_anchor="end"))
    for share, text in across.labels(5):
        x = _x(share)
        drawn.append(element("line", class_="axis", x1=x, x2=x, y1=BOTTOM, y2=BOTTOM + 3))
        drawn.append(element("text", _short(text, 12), class_="tick", x=x, y=BOTTOM + 15, text_anchor="middle"))
    if unit:
        drawn.append(element("text", unit, class_="tick", x=LEFT - 6, y=BOTTOM + 15, text_anchor="end"))
    return joined(drawn)


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * (0.03 + 0.94 * share)


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _figure(title: str, about: str, *parts: Markup, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    return element(
        "svg",
        element("title", f"{title}: {about}"),
        *_without_empty(parts),
        class_="chart",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"{title}: {about}",
    )


def _without_empty(parts: Sequence[Markup]) -> list[Markup]:
    return [part for part in parts if part]
