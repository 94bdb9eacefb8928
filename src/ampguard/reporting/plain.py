"""A report as plain numbers: the JSON of `ampguard report --format json`, and what a page embeds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ampguard.records import SCHEMA
from ampguard.reporting.charts import Chart, Line
from ampguard.reporting.draw_chart import geometry
from ampguard.reporting.run import Run
from ampguard.reporting.tables import differences
from ampguard.reporting.thin import Curve, Point


def as_dict(runs: Sequence[Run]) -> dict[str, Any]:
    """Return everything a report knows as one JSON object."""
    changed = {row.name: list(row.cells) for row in differences(runs)} if len(runs) > 1 else {}
    return {"schema": SCHEMA, "runs": [_run(run) for run in runs], "differences": changed}


def _run(run: Run) -> dict[str, Any]:
    return {
        "label": run.label,
        "path": str(run.path),
        "status": run.status,
        "task": run.task,
        "precision": dict(run.precision),
        "device": run.device,
        "versions": json_safe(run.versions),
        "config": json_safe(run.config),
        "rows": run.metrics.rows,
        "steps": {name: run.steps(name) for name in ("attempted", "applied", "skipped")},
        "final": dict(run.metrics.last),
        "best_val_loss": _point(run.lowest("val/loss")),
        "samples_per_s": run.samples_per_s,
        "wall_s": run.wall_s,
        "peak_memory_mib": run.peak_mib,
        "metrics": {key: _curve(curve) for key, curve in run.metrics.curves.items()},
        "events": {
            "counts": dict(run.events.counts),
            "listed": [
                {**json_safe(told.data), "event": told.kind, "step": told.step, "message": told.message}
                for told in run.events.listed
            ],
        },
        "recommendation": _recommendation(run),
        "notes": list(run.notes),
    }


def json_safe(value: Any) -> Any:
    """Return plain JSON: what it lacks (inf, NaN, a date of TOML) becomes text."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(held) for key, held in value.items()}
    if isinstance(value, list):
        return [json_safe(held) for held in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | None) else str(value)


def _curve(curve: Curve) -> dict[str, Any]:
    first, last, low, high = map(_point, curve.whole.ends)
    ends = {"first": first, "last": last, "lowest": low, "highest": high}
    return {"count": curve.count, **ends, "points": [list(point) for point in curve.points]}


def _point(point: Point | None) -> dict[str, float] | None:
    return None if point is None else {"step": point[0], "value": point[1]}


def _recommendation(run: Run) -> dict[str, Any] | None:
    if run.ranges is None or not run.ranges.recommended:
        return None
    return {"format": run.ranges.recommended, "overrides": dict(run.ranges.overrides)}


def embedded(charts: Sequence[Chart]) -> Markup:
    """Return what the page's read-out needs, as JSON that no text in it can end."""
    data = {"schema": SCHEMA, "charts": [_drawn(chart) for chart in charts]}
    return script_safe(json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":")))


def script_safe(text: str) -> Markup:
    """Return JSON for a script element: `</script>` and `<!--` cannot occur in it, and it means the same."""
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _drawn(chart: Chart) -> dict[str, Any]:
    return {
        "id": chart.id,
        "title": chart.title,
        "unit": chart.unit,
        "across": chart.across,
        "plot": geometry(chart),
        "lines": [_line(line) for line in chart.lines],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "metric": line.key,
        "name": line.name,
        "steps": [step for step, _ in line.trend],
        "values": _short(value for _, value in line.trend),
        # Of ranges of steps: values are their means.
        "lowest": _short(bucket.low[1] for bucket in line.buckets),
        "highest": _short(bucket.high[1] for bucket in line.buckets),
    }


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
