from dataclasses import replace

import pytest

from ampguard.benchmarking.parity import not_measured
from ampguard.benchmarking.report import Parity, Speedup, StepTimes, Trial
from ampguard.benchmarking.verdict import noise_warnings, recommend, sentence, targets, times

EQUIVALENT = Parity(
    metric="val/loss", kind="relative", seeds=5, steps=200, difference=0.001, ci90=(-0.002, 0.004), margin=0.01,
    result="equivalent", seeds_needed=None,
)  # fmt: skip
BASE = Trial(
    precision="fp32",
    status="ok",
    step_ms=StepTimes(median=18.0, iqr=0.1, n=20),
    speedup=Speedup(median=1.0, ci95=(1.0, 1.0)),
    parity=not_measured("it is the baseline", margin=0.01),
)


def trial(median=1.8, ci95=(1.7, 1.9), precision="bf16-mixed", **changes):
    found = Trial(
        precision=precision,
        status="ok",
        step_ms=StepTimes(median=10.0, iqr=0.1, n=20),
        speedup=Speedup(median=median, ci95=ci95),
        spread=0.02,
        memory_reduction_pct=31.0,
        parity=EQUIVALENT,
    )
    return replace(found, **changes)


def told(*trials):
    return recommend([BASE, *trials], "fp32")


def test_faster_smaller_and_equivalent_is_said_and_recommended():
    assert told(trial()).precision == "bf16-mixed"
    assert told(trial()).why == (
        "bf16-mixed is 1.80x faster (95 % CI 1.70-1.90), with 31 % less memory, and equivalent in val/loss within 1 % "
        "over 200 steps, 5 seeds: use it."
    )


def test_slower_is_said_to_be_slower_with_its_own_interval_and_the_likely_why():
    slow = trial(0.5, (0.4, 0.6), reason="the model is likely too small for it")
    found = told(slow)
    assert found.precision == "fp32"
    assert found.why == (
        "bf16-mixed is 2.00x slower (95 % CI 1.67-2.50): the model is likely too small for it. Stay with fp32."
    )


def test_an_emulated_precision_with_few_blocks_is_still_said_to_be_slower():
    found = trial(1 / 23, None, "fp16-mixed", reason="this CPU only emulates it", step_ms=StepTimes(median=1.0, n=2))
    assert sentence(found) == (
        "fp16-mixed is about 23x slower (2 blocks, too few for an interval): this CPU only emulates it"
    )


def test_of_several_that_pay_the_fastest_is_taken():
    assert told(trial(), trial(2.5, (2.4, 2.6), "fp16-mixed")).precision == "fp16-mixed"


def test_faster_but_less_accurate_is_not_recommended_and_says_which_way():
    worse = replace(EQUIVALENT, result="different", difference=0.05)
    found = told(trial(parity=worse))
    assert found.precision == "fp32"
    assert "but its val/loss is higher by 5 % over 200 steps, 5 seeds (margin 1 %)" in found.why


@pytest.mark.parametrize(
    ("result", "reason", "words"),
    [
        ("inconclusive", "about 12 seeds would tell", "with val/loss undecided over 200 steps, 5 seeds (about 12"),
        ("not_measured", "the Task has no validation data", "accuracy not measured (the Task has no validation data)"),
    ],
)
def test_accuracy_that_is_not_known_is_not_taken_for_granted(result, reason, words):
    found = told(trial(parity=replace(EQUIVALENT, result=result, reason=reason)))
    assert found.precision == "bf16-mixed"
    assert words in found.why
    assert found.why.endswith("watch its accuracy, which this bench does not vouch for.")


def test_as_fast_is_recommended_only_where_it_saves_memory():
    assert told(trial(1.0, (0.97, 1.03))).precision == "bf16-mixed"
    assert told(trial(1.0, (0.97, 1.03), memory_reduction_pct=2.0)).precision == "fp32"
    assert told(trial(1.0, (0.90, 1.10))).precision == "fp32"
    assert told(trial(1.0, (0.97, 1.03), memory_reduction_pct=None)).precision == "fp32"


def test_a_measurement_too_noisy_to_tell_beats_nothing_and_says_so():
    found = told(trial(spread=0.4))
    assert found.precision == "fp32"
    assert "cannot be judged: the ratios to the baseline spread over 40% of their median" in found.why


def test_no_interval_is_no_recommendation():
    assert told(trial(1.8, None)).precision == "fp32"


@pytest.mark.parametrize("status", ["unsupported", "failed"])
def test_what_does_not_run_is_named_with_its_reason(status):
    out = trial(status=status, reason="it needs a GPU: says the table")
    found = told(out)
    assert found.precision == "fp32"
    assert (
        found.why
        == {
            "unsupported": "bf16-mixed cannot run here: it needs a GPU. Stay with fp32.",
            "failed": "bf16-mixed failed: it needs a GPU: says the table. Stay with fp32.",
        }[status]
    )


def test_where_the_baseline_fails_what_runs_is_recommended_with_the_caveat():
    failed = replace(BASE, status="failed", reason="out of memory: 2 GiB")
    unknown = trial(None, None, reasons={"speedup": "the baseline fp32 failed"})
    found = recommend([failed, unknown], "fp32")
    assert found.precision == "bf16-mixed"
    assert found.why.startswith("fp32 failed: out of memory: 2 GiB; bf16-mixed runs, and nothing is there to compare")
    nothing = recommend([failed, trial(status="failed", reason="no")], "fp32")
    assert nothing.why.endswith("None can be recommended.")


def test_the_baseline_alone_is_compared_with_nothing():
    assert told().why == "nothing was compared with fp32."


def test_targets_are_none_where_a_figure_is():
    reached = targets(trial(memory_reduction_pct=40.0))
    assert (reached.speedup_1_5x, reached.memory_reduction_40pct, reached.accuracy_stable) == (True, True, True)
    unknown = targets(trial(None, None, memory_reduction_pct=None, parity=not_measured("no", margin=0.01)))
    assert (unknown.speedup_1_5x, unknown.memory_reduction_40pct, unknown.accuracy_stable) == (None, None, None)
    assert targets(trial(spread=0.3)).speedup_1_5x is None
    assert targets(trial(parity=replace(EQUIVALENT, result="different"))).accuracy_stable is False


def test_a_ratio_of_0_divides_nothing():
    assert "has no speed-up (every block took no time)" in sentence(
        trial(None, None, reasons={"speedup": "every block took no time"})
    )


def test_noise_is_warned_of_from_10_percent_and_has_no_verdict_from_25():
    assert noise_warnings([trial(spread=0.09), trial(spread=None)]) == []
    assert "was noisy: the paired ratios spread over 15%" in noise_warnings([trial(spread=0.15)])[0]
    assert "too noisy for a verdict" in noise_warnings([trial(spread=0.26)])[0]


def test_ratios_are_short():
    assert (times(1.834), times(23.4)) == ("1.83x", "23x")
