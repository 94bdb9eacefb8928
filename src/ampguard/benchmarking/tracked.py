"""The figures of a bench, sent to trackers: its folder becomes a small run folder of one row.

Trackers are sent what stands in a run folder, so `ampguard track DIR --to NAME` sends a bench later as it does a run.
"""

from collections.abc import Mapping

from ampguard.benchmarking.report import BenchReport, Trial
from ampguard.run_folder import read_run
from ampguard.tracking import Deliveries, RunLog, described
from ampguard.training.folder import RunFolder

TIMEOUT_S = 30.0
"""To wait for all trackers together, as `train` does by default."""


def figures(report: BenchReport) -> dict[str, float | int]:
    """Return what is known as one row: {"bench/bf16_mixed/speedup": 1.8, ...}; what is not known is absent."""
    return {
        f"bench/{trial.precision.replace('-', '_')}/{name}": value
        for trial in report.trials
        for name, value in _figures(trial).items()
        if value is not None
    }


def _figures(trial: Trial) -> Mapping[str, float | int | None]:
    low, high = trial.speedup.ci95 or (None, None)
    return {
        "step_ms": trial.step_ms.median,
        "samples_per_s": trial.samples_per_s,
        "speedup": trial.speedup.median,
        "speedup_low": low,
        "speedup_high": high,
        "peak_memory_mib": trial.peak_memory_mib,
        "memory_reduction_pct": trial.memory_reduction_pct,
        "largest_micro_batch": trial.largest_micro_batch,
        "parity_difference": trial.parity.difference,
        "skipped_steps": trial.skipped_steps,
    }


def write_run(report: BenchReport, folder: RunFolder) -> None:
    """Make a bench's folder a run folder of one row."""
    best = report.recommendation
    folder.write_run(
        {
            # Not the Task's own name: `train --resume auto` must not take a bench for a run of it.
            "task": {"name": f"bench-{report.task}"},
            "precision": {"requested": "bench", "granted": best.precision, "reason": best.why},
            "device": report.device,
            "config": {name: value for name, value in report.settings.items() if value is not None},
        }
    )
    rows = RunLog(folder.path)
    rows.truncate_after(0)
    rows.log({"step": 1, **figures(report)})
    rows.close()


def send(report: BenchReport, names: tuple[str, ...], folder: RunFolder) -> None:
    """Send what `write_run` wrote, and wait until trackers have it, or their time is over; they never fail a bench."""
    if not names:
        return
    events, deliveries = RunLog(folder.path), Deliveries(names, folder.path)
    try:
        deliveries.start(described(folder.path, read_run(folder.path)))
        deliveries.finish(
            {"status": report.status}, step=1, timeout_s=TIMEOUT_S, tell=lambda event: events.event(event.as_dict())
        )
    finally:
        deliveries.close()
        events.close()
