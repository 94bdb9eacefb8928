"""The runs behind a bench's accuracy: parity/PRECISION/seed-N, those that finished.

Curves of one precision are laid over each other: a bucket of steps holds the values of all its seeds. A precision is
shown by the seeds that the baseline has finished too, as it is judged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ampguard.errors import RunFolderError
from ampguard.reporting.bench.values import figure
from ampguard.reporting.metrics import read_metrics
from ampguard.reporting.run import table
from ampguard.reporting.thin import Curve
from ampguard.run_folder import read_record

LOSS, SCALE = "train/loss", "amp/loss_scale"


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A run of one seed."""

    curves: Mapping[str, Curve]
    final: float | None
    """Last value of the metric that parity judges."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The runs of one precision."""

    seeds: tuple[int, ...]
    loss: Curve | None
    loss_scale: Curve | None
    """None where no run has one."""
    finals: Mapping[int, float]
    """By seed."""


def read_trained(folder: Path, metrics: Mapping[str, str], *, baseline: str) -> dict[str, Trained]:
    """Return what the runs of each precision logged; one without any is left out.

    Args:
        folder: Where the runs lie; it need not exist.
        metrics: The metric that parity judges, by precision.
        baseline: Of its seeds only are the others shown.
    """
    runs = {name: _runs(folder / name, metric) for name, metric in metrics.items() if _is_name(name)}
    ours = runs.get(baseline, {})
    paired = {name: {seed: run for seed, run in held.items() if seed in ours} for name, held in runs.items()}
    return {name: _together(held) for name, held in paired.items() if held}


def _is_name(name: str) -> bool:
    """Return whether a precision is the name of a folder: bench.json may hold any text."""
    return name not in ("", ".", "..") and Path(name).name == name and "\0" not in name


def _runs(folder: Path, metric: str) -> dict[int, OneRun]:
    found = {}
    for path in folder.glob("seed-*"):
        number = path.name.removeprefix("seed-")
        run = _run(path, metric) if number.isdecimal() else None
        if run is not None:
            found[int(number)] = run
    return dict(sorted(found.items()))


def _run(path: Path, metric: str) -> OneRun | None:
    """Return a run that finished; None for any other, and for one that cannot be read."""
    try:
        record = read_record(path)
        if record is None or record.get("status") != "finished":
            return None
        return OneRun(
            curves=read_metrics(path / "metrics.jsonl").curves, final=figure(table(record.get("final")).get(metric))
        )
    except (OSError, RunFolderError):
        return None


def _together(runs: Mapping[int, OneRun]) -> Trained:
    return Trained(
        seeds=tuple(runs),
        loss=_overlaid(run.curves.get(LOSS) for run in runs.values()),
        loss_scale=_overlaid(run.curves.get(SCALE) for run in runs.values()),
        finals={seed: run.final for seed, run in runs.items() if run.final is not None},
    )


def _overlaid(curves: Iterable[Curve | None]) -> Curve | None:
    found = [curve for curve in curves if curve is not None]
    if not found:
        return None
    whole = Curve()
    for curve in found:
        whole.join(curve)
    return whole
