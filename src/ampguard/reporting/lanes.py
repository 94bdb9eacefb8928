"""The timeline of events: a lane for each kind, with a mark where it happened. Drawn to stretch to any width."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from ampguard.reporting.events import Mark, Timeline, Told
from ampguard.reporting.run import Run
from ampguard.reporting.svg import element
from ampguard.reporting.words import count

TONES: Final = {
    "bad": ("collapse", "nonfinite", "oom_split", "tracker_outage", "checkpoint_failed"),
    "odd": ("skip", "scale_backoff", "lr_lowered", "preempted", "interrupted", "early_stop"),
    "good": ("checkpoint", "tracker_recovered", "resumed"),
}
"""How an event is coloured; a kind that stands nowhere is "news"."""

ORDER: Final = [kind for tone in ("bad", "odd", "news", "good") for kind in TONES.get(tone, ("fallback", "compile"))]

PLACES: Final = 8
"""Places that a lane's description names."""


@dataclass(frozen=True)
class Lane:
    """The events of one kind in one run."""

    kind: str
    count: int
    tone: str
    figure: Markup


def tone_of(kind: str) -> str:
    """Return "bad", "odd", "good" or "news"."""
    return next((tone for tone, kinds in TONES.items() if kind in kinds), "news")


def make_lanes(run: Run, steps: tuple[int, int]) -> list[Lane]:
    """Return a lane for each kind of event that a run has, what went wrong first.

    Args:
        run: The run.
        steps: First and last step of the timeline.
    """
    events = run.events
    kinds = sorted(events.counts, key=lambda kind: (ORDER.index(kind) if kind in ORDER else len(ORDER), kind))
    return [Lane(kind, events.counts[kind], tone_of(kind), _figure(kind, events, steps)) for kind in kinds]


def span_of(runs: Sequence[Run]) -> tuple[int, int]:
    """Return the first and last step that any row or event of the runs has."""
    found = [step for run in runs for step in (run.metrics.first_step, run.metrics.last_step) if step is not None]
    for run in runs:
        for marks in run.events.marks.values():
            found += [marks.all[0].first, marks.all[-1].last]
    return (min(0, *found), max(1, *found)) if found else (0, 1)


def outages(events: Timeline, end: int) -> list[tuple[int, int]]:
    """Return the steps from each listed outage to its recovery, to `end` where there was none."""
    spans, open_since = [], dict[str, int]()
    for told in events.listed:
        tracker = str(told.data.get("tracker", ""))
        if told.kind == "tracker_outage":
            open_since.setdefault(tracker, told.step)
        elif told.kind == "tracker_recovered" and tracker in open_since:
            spans.append((open_since.pop(tracker), told.step))
    return sorted([*spans, *((start, end) for start in open_since.values())])


def _figure(kind: str, events: Timeline, steps: tuple[int, int]) -> Markup:
    marks = events.marks_of(kind)
    spans = outages(events, steps[1]) if kind == "tracker_outage" else []
    return element(
        "svg",
        element("title", f"{kind}: {_places(events.counts[kind], marks)}"),
        element("line", class_="rail", x1=0, x2=1000, y1=9, y2=9),
        *(_span(start, stop, steps) for start, stop in spans),
        *(_mark(mark, steps, tone_of(kind)) for mark in marks),
        class_="lane",
        viewBox="0 0 1000 18",
        preserveAspectRatio="none",
        role="img",
    )


def _places(total: int, marks: Sequence[Mark]) -> str:
    named = [f"{mark.first:,}" if mark.first == mark.last else f"{mark.first:,}-{mark.last:,}" for mark in marks]
    more = " and later" if len(named) > PLACES else ""
    return f"{count(total, 'event')}, at step {', '.join(named[:PLACES])}{more}"


def _at(step: float, steps: tuple[int, int]) -> float:
    low, high = steps
    return 4 + 992 * (step - low) / (high - low)


def _span(start: int, stop: int, steps: tuple[int, int]) -> Markup:
    x = _at(start, steps)
    return element("rect", class_="span", x=x, width=max(_at(stop, steps) - x, 2), y=5, height=8)


def _mark(mark: Mark, steps: tuple[int, int], tone: str) -> Markup:
    x = _at((mark.first + mark.last) / 2, steps)
    where = f"step {mark.first:,}" if mark.first == mark.last else f"steps {mark.first:,} to {mark.last:,}"
    times = f"{mark.count:,} at " if mark.count > 1 else ""
    return element("line", element("title", f"{times}{where}"), class_=f"mark {tone}", x1=x, x2=x, y1=2, y2=16)


def listed_tones(listed: Sequence[Told]) -> list[tuple[Told, str]]:
    """Return events with their colours, for the table."""
    return [(told, tone_of(told.kind)) for told in listed]
