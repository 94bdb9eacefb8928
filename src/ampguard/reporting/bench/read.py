"""A bench's folder, read: bench.json as plain numbers and texts, and the runs that its accuracy rests on.

A figure that is missing, or is no finite number, is None: the page shows a dash and the reason that bench.json gives.
Fields that a later version adds are left alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ampguard.errors import InputError, RunFolderError
from ampguard.records import SCHEMA
from ampguard.reporting.bench.trained import Trained, read_trained
from ampguard.reporting.bench.values import figure, interval, named, numbers, tables, text, texts, whole
from ampguard.reporting.run import MISSING, table

NAME: Final = "bench.json"

PARTS: Final = ("weights", "gradients", "optimizer", "activations", "workspace")
"""Where memory goes, in the order of a stack."""

TOO_NOISY: Final = 0.25
"""Spread of the paired ratios past which a bench gives no verdict on speed, and the page none either."""

AIMS: Final = ("speedup_1_5x", "memory_reduction_40pct", "accuracy_stable")
"""What mixed precision is judged against."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Whether a precision trains as accurately as the baseline."""

    metric: str
    kind: str
    """"absolute" or "relative"."""
    seeds: int | None
    steps: int | None
    difference: float | None
    ci90: tuple[float, float] | None
    margin: float | None
    result: str
    seeds_needed: int | None
    baseline_spread: float | None
    """Standard deviation of the baseline's own values over seeds, in the unit of the difference."""
    largest_gap: float | None
    largest_gap_step: int | None
    reason: str

    @property
    def factor(self) -> float:
        """By what a difference is multiplied to be shown: a relative one in %."""
        return 1.0 if self.kind == "absolute" else 100.0

    @property
    def unit(self) -> str:
        """What stands behind a difference that is shown."""
        return "" if self.kind == "absolute" else " %"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One precision."""

    precision: str
    style: int
    """Its colour, dash and marker on the page."""
    is_baseline: bool
    status: str
    reason: str
    step_ms: float | None
    iqr_ms: float | None
    blocks: int | None
    samples_ms: tuple[float, ...]
    """Milliseconds of a step, block by block."""
    samples_per_s: float | None
    data_wait_ms: float | None
    peak_mib: float | None
    parts: Mapping[str, float]
    """MiB by part, of the parts that are known."""
    speedup: float | None
    ci95: tuple[float, float] | None
    spread: float | None
    saved_pct: float | None
    largest_micro_batch: int | None
    skipped_steps: int | None
    parity: Parity
    aims: Mapping[str, bool | None]
    reasons: Mapping[str, str]
    """Why a figure is missing, by its name."""

    @property
    def is_too_noisy(self) -> bool:
        """Whether its speed-up cannot be judged."""
        return self.spread is not None and self.spread > TOO_NOISY

    @property
    def is_decided(self) -> bool:
        """Whether it is surely faster or surely slower than the baseline."""
        return self.ci95 is not None and not self.is_too_noisy and not self.ci95[0] <= 1.0 <= self.ci95[1]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a bench's folder holds."""

    path: Path
    values: Mapping[str, Any]
    """bench.json as it is."""
    task: str
    device: str
    baseline: str
    status: str
    trials: tuple[Trial, ...]
    recommended: str
    why: str
    warnings: tuple[str, ...]
    unmet: tuple[str, ...]
    wall_s: float | None
    settings: Mapping[str, Any]
    against: Mapping[str, Any]
    """Beside an older bench; empty where none was named."""
    trained: Mapping[str, Trained]
    """What its parity runs logged, by precision."""

    def trial(self, precision: str) -> Trial | None:
        """Return the trial of a precision, or None."""
        return next((trial for trial in self.trials if trial.precision == precision), None)

    @property
    def base(self) -> Trial | None:
        """The baseline's trial."""
        return self.trial(self.baseline)

    @property
    def others(self) -> list[Trial]:
        """The trials that are compared with the baseline."""
        return [trial for trial in self.trials if not trial.is_baseline]


def find_bench(paths: Sequence[Path]) -> Path | None:
    """Return the one path that is a bench's folder or its bench.json; None where all are run folders.

    Raises:
        InputError: It is not the only path.
    """
    found = [path for path in paths if path.name == NAME or (path / NAME).exists()]
    if found and len(set(paths)) > 1:
        raise InputError(
            f"{found[0]} is a bench, and {len(paths)} folders were given; a bench has a page of its own.",
            hint="Name it alone. Two benches: ampguard bench TASK --against OLD/bench.json",
        )
    return found[0] if found else None


def read_bench(path: Path) -> Bench:
    """Return what a bench's folder holds. path: the folder, or the bench.json in it.

    Raises:
        RunFolderError: bench.json is missing, damaged, or of another schema.
    """
    file = path if path.name == NAME else path / NAME
    values = _object(file)
    baseline = text(values.get("baseline"), MISSING)
    trials = tuple(_trial(held, at, baseline) for at, held in enumerate(tables(values.get("trials"))))
    best = table(values.get("recommendation"))
    metrics = {trial.precision: trial.parity.metric for trial in trials}
    return Bench(
        path=file.parent,
        values=values,
        task=text(values.get("task"), MISSING),
        device=text(values.get("device"), MISSING),
        baseline=baseline,
        status=text(values.get("status"), "finished"),
        trials=trials,
        recommended=text(best.get("precision"), MISSING),
        why=text(best.get("why"), "bench.json holds no verdict."),
        warnings=texts(values.get("warnings")),
        unmet=texts(values.get("unmet")),
        wall_s=figure(values.get("wall_s")),
        settings=table(values.get("settings")),
        against=table(values.get("against")),
        trained=read_trained(file.parent / "parity", metrics, baseline=baseline),
    )


def _object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"{file} cannot be read: {error.strerror or error}.", hint="Give the folder of a bench."
        ) from error
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{file} is damaged: {error}.", hint="Give the folder of a bench.") from error
    if not isinstance(values, dict) or "trials" not in values:
        raise RunFolderError(f"{file} is no result of a bench.", hint="Give the folder of a bench.")
    if values.get("schema") != SCHEMA:
        raise RunFolderError(
            f"{file} has schema {values.get('schema')}; this version reads {SCHEMA}.",
            hint="Read it with the version of ampguard that wrote it, or a newer one.",
        )
    return values


def _trial(held: Mapping[str, Any], at: int, baseline: str) -> Trial:
    precision, times, ratio = (
        text(held.get("precision"), MISSING),
        table(held.get("step_ms")),
        table(held.get("speedup")),
    )
    aims = table(held.get("targets"))
    return Trial(
        precision=precision,
        style=at,
        is_baseline=precision == baseline,
        status=text(held.get("status"), MISSING),
        reason=text(held.get("reason")),
        step_ms=figure(times.get("median")),
        iqr_ms=figure(times.get("iqr")),
        blocks=whole(times.get("n")),
        samples_ms=numbers(held.get("samples_ms")),
        samples_per_s=figure(held.get("samples_per_s")),
        data_wait_ms=figure(held.get("data_wait_ms")),
        peak_mib=figure(held.get("peak_memory_mib")),
        parts=named(table(held.get("memory_mib")), PARTS),
        speedup=figure(ratio.get("median")),
        ci95=interval(ratio.get("ci95")),
        spread=figure(held.get("spread")),
        saved_pct=figure(held.get("memory_reduction_pct")),
        largest_micro_batch=whole(held.get("largest_micro_batch")),
        skipped_steps=whole(held.get("skipped_steps")),
        parity=_parity(table(held.get("parity"))),
        aims={name: aims[name] if isinstance(aims.get(name), bool) else None for name in AIMS},
        reasons={str(name): str(why) for name, why in table(held.get("reasons")).items()},
    )


def _parity(held: Mapping[str, Any]) -> Parity:
    return Parity(
        metric=text(held.get("metric"), "val/loss"),
        kind=text(held.get("kind"), "relative"),
        seeds=whole(held.get("seeds")),
        steps=whole(held.get("steps")),
        difference=figure(held.get("difference")),
        ci90=interval(held.get("ci90")),
        margin=figure(held.get("margin")),
        result=text(held.get("result"), "not_measured"),
        seeds_needed=whole(held.get("seeds_needed")),
        baseline_spread=figure(held.get("baseline_spread")),
        largest_gap=figure(held.get("largest_gap")),
        largest_gap_step=whole(held.get("largest_gap_step")),
        reason=text(held.get("reason")),
    )
