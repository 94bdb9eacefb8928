"""A bench in rows of texts: every figure, every reason why one is missing, what changed since an older bench."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ampguard.reporting.bench.read import AIMS, PARTS, Bench, Trial
from ampguard.reporting.bench.values import figure, tables, text
from ampguard.reporting.bench.words import faster, mib, pct, plainly, signed, span, times
from ampguard.reporting.run import table
from ampguard.reporting.tables import Row
from ampguard.reporting.words import NONE, number

FIGURES = {
    "step_ms": "step time",
    "samples_per_s": "samples/s",
    "data_wait_ms": "data wait",
    "speedup": "speed-up",
    "spread": "spread of the paired ratios",
    "peak_memory_mib": "peak memory",
    "memory_mib": "parts of memory",
    "memory_reduction_pct": "memory saved",
    "largest_micro_batch": "largest micro-batch",
    "skipped_steps": "skipped steps",
    "parity": "accuracy",
}
"""Names on the page of the figures that bench.json gives reasons for."""

AIM_NAMES = dict(zip(AIMS, ("target: 1.5x as fast", "target: 40 % less memory", "target: as accurate"), strict=True))


@dataclass(frozen=True)
class Reason:
    """Why figures of precisions are missing."""

    precisions: tuple[str, ...]
    figures: tuple[str, ...]
    why: str


def focus(bench: Bench) -> Trial | None:
    """Return the trial that the key figures are of: the recommended one, else the fastest other, else the baseline."""
    best = bench.trial(bench.recommended)
    if best is not None and not best.is_baseline:
        return best
    measured = [trial for trial in bench.others if trial.speedup is not None]
    return max(measured, key=lambda trial: trial.speedup or 0.0) if measured else bench.base


def key_figures(bench: Bench) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of what matters first; what is not known is left out."""
    trial = focus(bench)
    if trial is None:
        return []
    return [*_speed_figures(trial, bench), *_memory_figures(trial), *_accuracy_figures(trial)]


def _speed_figures(trial: Trial, bench: Bench) -> Iterator[tuple[str, str, str]]:
    if trial.speedup is not None and not trial.is_baseline:
        value, word = faster(trial.speedup)
        if trial.is_decided:
            yield f"{word} than {bench.baseline}", value, _interval(trial)
        else:
            yield f"times as fast as {bench.baseline}", times(trial.speedup), _interval(trial)
    if trial.step_ms is not None:
        base = bench.base.step_ms if bench.base is not None and not trial.is_baseline else None
        yield "step time", f"{number(trial.step_ms)} ms", "" if base is None else f"{bench.baseline}: {number(base)} ms"
    if trial.samples_per_s is not None:
        yield "samples/s", number(float(f"{trial.samples_per_s:.4g}")), ""


def _interval(trial: Trial) -> str:
    """Return the interval of a speed-up in words, or that it means nothing."""
    if trial.is_too_noisy:
        return f"too noisy to be judged: the pairs spread over {pct(trial.spread)}"
    return "no interval" if trial.ci95 is None else f"95 % interval {times(trial.ci95[0])} to {times(trial.ci95[1])}"


def _memory_figures(trial: Trial) -> Iterator[tuple[str, str, str]]:
    if trial.peak_mib is not None:
        saved = trial.saved_pct
        less = "" if saved is None or trial.is_baseline else f"{abs(saved):.0f} % {'more' if saved < 0 else 'less'}"
        yield "peak memory", mib(trial.peak_mib), less


def _accuracy_figures(trial: Trial) -> Iterator[tuple[str, str, str]]:
    parity = trial.parity
    if trial.is_baseline:
        return
    figure = (
        ""
        if parity.difference is None
        else f"{parity.metric} differs by {signed(parity.difference * parity.factor, parity.unit)}, "
    )
    over = f"{parity.steps or 0:,} steps, {parity.seeds or 0} seeds" if parity.seeds else ""
    note = f"{figure}{over}".removesuffix(", ") or parity.reason
    yield "accuracy", plainly(parity.result), note


def every_figure(bench: Bench) -> list[Row]:
    """Return one row a figure, one cell a precision; rows that hold nothing are left out."""
    columns = [dict(_figures(trial)) for trial in bench.trials]
    names = list(dict.fromkeys(name for held in columns for name in held))
    rows = [Row(name, tuple(held.get(name, NONE) for held in columns)) for name in names]
    return [row for row in rows if set(row.cells) - {NONE}]


def _figures(trial: Trial) -> Iterator[tuple[str, str]]:
    yield "status", trial.status
    yield "step time, median ms", number(trial.step_ms)
    yield "step time, interquartile range ms", number(trial.iqr_ms)
    yield "blocks", number(trial.blocks)
    yield "samples/s", number(trial.samples_per_s)
    yield "data wait ms", number(trial.data_wait_ms)
    yield "speed-up, median", "baseline" if trial.is_baseline else times(trial.speedup)
    ends = None if trial.is_baseline else trial.ci95
    yield "speed-up, 95 % interval", NONE if ends is None else f"{times(ends[0])} to {times(ends[1])}"
    yield "spread of the paired ratios", pct(trial.spread)
    yield "skipped steps", number(trial.skipped_steps)
    yield "peak memory MiB", number(trial.peak_mib)
    for part in PARTS:
        yield f"{part} MiB", number(trial.parts.get(part))
    yield "memory saved %", number(None if trial.saved_pct is None or trial.is_baseline else round(trial.saved_pct, 1))
    yield "largest micro-batch", number(trial.largest_micro_batch)
    yield from _parity_figures(trial)
    for aim, name in AIM_NAMES.items():
        held = None if trial.is_baseline else trial.aims[aim]
        yield name, NONE if held is None else "reached" if held else "not reached"


def _parity_figures(trial: Trial) -> Iterator[tuple[str, str]]:
    parity, factor, unit = trial.parity, trial.parity.factor, trial.parity.unit
    ends = None if parity.ci90 is None else (parity.ci90[0] * factor, parity.ci90[1] * factor)
    is_judged = bool(parity.seeds) and not trial.is_baseline
    yield "accuracy", "baseline" if trial.is_baseline else plainly(parity.result)
    yield "metric", parity.metric if parity.seeds else NONE
    yield "seeds", number(parity.seeds) if parity.seeds else NONE
    yield "steps of each run", number(parity.steps) if parity.steps else NONE
    yield "difference", NONE if parity.difference is None else signed(parity.difference * factor, unit)
    yield "difference, 90 % interval", span(ends, unit) or NONE
    yield "margin", f"{parity.margin * factor:g}{unit}" if is_judged and parity.margin is not None else NONE
    spread = parity.baseline_spread
    yield "spread of the baseline's seeds", NONE if spread is None else f"{spread * factor:.2g}{unit}"
    yield "seeds that would decide", number(parity.seeds_needed)
    step = "" if parity.largest_gap_step is None else f" at step {parity.largest_gap_step:,}"
    yield "largest gap of training loss", NONE if parity.largest_gap is None else f"{pct(parity.largest_gap)}{step}"


def reasons(bench: Bench) -> list[Reason]:
    """Return why figures are missing; what is missing for the same reason stands together."""
    figures: dict[tuple[str, str], list[str]] = {}
    for trial in bench.trials:
        for name, why in _whys(trial):
            figures.setdefault((trial.precision, why), []).append(name)
    precisions: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for (precision, why), held in figures.items():
        precisions.setdefault((tuple(dict.fromkeys(held)), why), []).append(precision)
    return [Reason(tuple(names), held, why) for (held, why), names in precisions.items()]


def _whys(trial: Trial) -> Iterator[tuple[str, str]]:
    if trial.status != "ok" and trial.reason:
        yield "every figure" if trial.status == "unsupported" else "what it lacks", f"{trial.status}: {trial.reason}"
    for name, why in trial.reasons.items():
        yield FIGURES.get(name, plainly(name)), why
    parity = trial.parity
    if parity.reason and not trial.is_baseline and not (trial.status == "unsupported" and trial.reason):
        yield FIGURES["parity"], parity.reason
    if trial.status == "ok":
        for name in _unexplained(trial):
            yield FIGURES[name], "bench.json gives no reason"


def _unexplained(trial: Trial) -> list[str]:
    """Return the figures that are missing without a word."""
    known: Mapping[str, Any] = {
        "step_ms": trial.step_ms,
        "samples_per_s": trial.samples_per_s,
        "data_wait_ms": trial.data_wait_ms,
        "speedup": trial.speedup,
        "peak_memory_mib": trial.peak_mib,
        "memory_mib": trial.parts if trial.peak_mib is not None else "its peak is missing too",
        "memory_reduction_pct": trial.saved_pct,
        "parity": True if trial.is_baseline or trial.parity.reason else trial.parity.difference,
    }
    return [name for name, value in known.items() if value in (None, {}) and name not in trial.reasons]


def left_out(bench: Bench) -> list[Trial]:
    """Return the precisions that could not be measured."""
    return [trial for trial in bench.trials if trial.status != "ok"]


def why_none(bench: Bench, figure: str) -> list[tuple[str, str]]:
    """Return (precision, why) of the trials that ran and lack a figure that bench.json gives reasons for."""
    ran = [trial for trial in bench.trials if trial.status == "ok"]
    return [(trial.precision, trial.reasons[figure]) for trial in ran if figure in trial.reasons]


def why_no_parity(bench: Bench) -> list[tuple[str, str]]:
    """Return (precision, why) of the compared trials that ran and have no difference."""
    ran = [trial for trial in bench.others if trial.status == "ok" and trial.parity.difference is None]
    return [(trial.precision, trial.parity.reason or "bench.json gives no reason") for trial in ran]


def settings(bench: Bench) -> list[Row]:
    """Return what the figures depend on."""
    command = table(bench.values.get("command"))
    given = {"task": command.get("target"), **{f"task.{k}": v for k, v in table(command.get("options")).items()}}
    facts = {"device": bench.device, "baseline": bench.baseline, **given, **bench.settings}
    return [Row(str(name), (_plain(value),)) for name, value in facts.items() if value is not None or name not in given]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(held)}" for name, held in value.items()) or NONE
    return text(value, NONE)


def changes(bench: Bench) -> list[Row]:
    """Return what `--against` found: a row a precision."""
    return [
        Row(text(held.get("precision"), NONE), tuple(_change(held))) for held in tables(bench.against.get("changes"))
    ]


CHANGE_NAMES = (
    "ms/step then",
    "now",
    "times as fast",
    "speed-up then",
    "now",
    "MiB then",
    "now",
    "accuracy then",
    "now",
)
"""Headings of `changes`, behind the precision."""


def _change(held: Mapping[str, Any]) -> Iterator[str]:
    yield from (number(figure(value)) for value in _both(held.get("step_ms")))
    yield times(figure(held.get("ratio")))
    yield from (times(figure(value)) for value in _both(held.get("speedup")))
    yield from (number(figure(value)) for value in _both(held.get("peak_memory_mib")))
    yield from (plainly(text(value, NONE)) for value in _both(held.get("parity")))


def differences(bench: Bench) -> list[Row]:
    """Return device and settings that are not those of the older bench: (then, now)."""
    held = table(bench.against.get("differences"))
    return [Row(str(name), tuple(map(_plain, _both(pair)))) for name, pair in held.items()]


def _both(value: Any) -> Sequence[Any]:
    """Return then and now; of anything that is no pair, nothing twice."""
    return value if isinstance(value, list | tuple) and len(value) == 2 else (None, None)
