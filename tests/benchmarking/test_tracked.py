import json
import re

from ampguard.benchmarking.parity import not_measured
from ampguard.benchmarking.report import BenchReport, Recommendation, Speedup, StepTimes, Trial
from ampguard.benchmarking.tracked import figures

REPORT = BenchReport(
    task="tiny",
    device="paper",
    baseline="fp32",
    settings={"torch": "2.13"},
    trials=(
        Trial(
            precision="bf16-mixed",
            status="ok",
            step_ms=StepTimes(median=2.0, iqr=0.1, n=10),
            speedup=Speedup(median=1.5, ci95=(1.4, 1.6)),
            skipped_steps=0,
            parity=not_measured("no", margin=0.01),
        ),
    ),
    recommendation=Recommendation(precision="bf16-mixed", why="because"),
)


def test_what_is_known_is_a_row_of_keys_that_every_tracker_takes():
    assert figures(REPORT) == {
        "bench/bf16_mixed/step_ms": 2.0,
        "bench/bf16_mixed/speedup": 1.5,
        "bench/bf16_mixed/speedup_low": 1.4,
        "bench/bf16_mixed/speedup_high": 1.6,
        "bench/bf16_mixed/skipped_steps": 0,
    }
    assert all(re.fullmatch(r"[a-z0-9_/]+", key) for key in figures(REPORT))
    json.dumps(figures(REPORT), allow_nan=False)
