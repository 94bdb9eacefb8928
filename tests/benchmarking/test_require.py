from dataclasses import replace

import pytest

from ampguard.benchmarking.parity import not_measured
from ampguard.benchmarking.report import Parity, Speedup, Trial
from ampguard.benchmarking.require import parse_requirements
from ampguard.errors import ConfigError, PrecisionError

PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed")
EQUIVALENT = Parity(
    metric="val/loss", kind="relative", seeds=5, steps=200, difference=0.0, ci90=(0.0, 0.0), margin=0.01,
    result="equivalent", seeds_needed=None,
)  # fmt: skip
BASE = Trial(precision="fp32", status="ok", parity=not_measured("it is the baseline", margin=0.01))
FAST = Trial(
    precision="bf16-mixed",
    status="ok",
    speedup=Speedup(median=1.6, ci95=(1.4, 1.8)),
    memory_reduction_pct=31.0,
    parity=EQUIVALENT,
)
BROKEN = Trial(precision="fp16-mixed", status="failed", reason="no", parity=not_measured("it failed", margin=0.01))
TRIALS = (BASE, FAST, BROKEN)


def failures(text, recommended="bf16-mixed"):
    found = parse_requirements([text], PRECISIONS)
    return [line for item in found for line in item.failures(TRIALS, recommended=recommended, baseline="fp32")]


@pytest.mark.parametrize(
    "text",
    ["speedup>=1.4", "speedup >= 1.2x, equivalent", "memory>=30%", "bf16:equivalent,memory>=31", "bfloat16:speedup>=1"],
)
def test_what_is_reached_is_met(text):
    assert failures(text) == []


def test_a_speed_up_counts_by_the_lower_end_of_its_interval():
    assert failures("speedup>=1.5") == [
        "bf16-mixed: speedup>=1.5 is required, but the interval of its speed-up is 1.40 to 1.80"
    ]


def test_each_condition_that_is_not_met_is_a_sentence():
    found = failures("fp16:speedup>=1.5,equivalent")
    assert found == [
        "fp16-mixed: speedup>=1.5 is required, but it failed: no",
        "fp16-mixed: equivalent is required, but it failed: no",
    ]
    assert failures("memory>=40") == ["bf16-mixed: memory>=40 is required, but its memory is 31.0 % less"]


def test_what_is_not_known_is_not_met():
    assert failures("fp32:equivalent,memory>=1,speedup>=1") == [
        "fp32: equivalent is required, but its parity is not measured (it is the baseline)",
        "fp32: memory>=1 is required, but its memory is not known: it was not measured",
        "fp32: speedup>=1 is required, but its speed-up has no interval: it was not measured",
    ]


def test_a_speed_up_on_a_machine_too_noisy_for_a_verdict_is_not_shown():
    noisy = replace(FAST, spread=0.4)
    found = parse_requirements(["speedup>=1.2"], PRECISIONS)[0].failures(
        [BASE, noisy], recommended="bf16-mixed", baseline="fp32"
    )
    assert "too noisy for a verdict: the ratios spread over 40%" in found[0]


def test_where_nothing_pays_the_baseline_itself_meets_nothing():
    assert failures("speedup>=0.5,equivalent", recommended="fp32") == [
        "speedup>=0.5, equivalent is required, but no other precision is recommended than fp32, the baseline"
    ]


@pytest.mark.parametrize("text", ["speedup>1.5", "faster", "speedup>=", "", "speedup>=1.5,,equivalent", "memory>=-1"])
def test_what_is_no_condition_is_refused_before_anything_is_measured(text):
    with pytest.raises(ConfigError, match="no condition") as error:
        parse_requirements([text], PRECISIONS)
    assert "equivalent" in error.value.allowed


def test_a_precision_that_is_not_compared_or_known_is_refused():
    with pytest.raises(ConfigError, match="'tf32', which is not compared"):
        parse_requirements(["tf32:equivalent"], PRECISIONS)
    with pytest.raises(PrecisionError):
        parse_requirements(["fp17:equivalent"], PRECISIONS)
