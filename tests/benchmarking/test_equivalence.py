import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from ampguard.benchmarking.equivalence import MIN_SEEDS, equivalence


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_difference_at_the_margin_is_called_equivalent_in_at_most_5_percent(seeds):
    rng, trials = np.random.default_rng(seeds), 4000
    found = [equivalence(list(0.01 + rng.normal(0, 0.004, seeds)), 0.01).result for _ in range(trials)]
    # Two standard errors of a rate of 5 %.
    assert found.count("equivalent") / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_verdict_is_that_of_two_one_sided_tests_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = list(rng.normal(rng.uniform(-0.02, 0.02), 0.01, 6))
        lower = ttest_1samp(values, -0.01, alternative="greater").pvalue
        upper = ttest_1samp(values, 0.01, alternative="less").pvalue
        assert (equivalence(values, 0.01).result == "equivalent") == (max(lower, upper) < 0.05)


def test_interval_is_that_of_scipy():
    values = [0.001, 0.004, -0.002, 0.003, 0.002]
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.90)
    assert equivalence(values, 0.01).ci90 == pytest.approx((low, high))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_past_the_margin_is_different_on_either_side(sign):
    found = equivalence([sign * value for value in (0.030, 0.031, 0.029, 0.030)], 0.01)
    assert found.result == "different"
    assert found.seeds_needed is None


def test_an_open_answer_names_the_seeds_that_decide_it_and_they_do():
    rng = np.random.default_rng(2)
    values = [0.004, -0.006, 0.012, 0.001]
    found = equivalence(values, 0.01)
    assert found.result == "inconclusive"
    assert str(found.seeds_needed) in found.reason
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    again = [equivalence(list(rng.normal(mean, deviation, found.seeds_needed)), 0.01).result for _ in range(1000)]
    assert 0.75 <= again.count("equivalent") / 1000 <= 0.9


def test_a_difference_on_the_margin_itself_will_never_be_decided():
    found = equivalence([0.009, 0.010, 0.011], 0.01)
    assert found.result == "inconclusive"
    assert found.seeds_needed is None
    assert "too close" in found.reason


def test_not_significant_is_not_equivalent():
    noisy = [0.5, -0.5, 0.4, -0.4, 0.01]
    assert ttest_1samp(noisy, 0.0).pvalue > 0.9
    assert equivalence(noisy, 0.01).result == "inconclusive"


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0], [0.0, math.nan, 0.0], [0.0, math.inf, 0.0]])
def test_too_few_seeds_or_no_number_is_not_measured(values):
    found = equivalence(values, 0.01)
    assert found.result == "not_measured"
    assert found.difference is None
    assert found.reason
    assert found.seeds_needed == (MIN_SEEDS if len(values) < MIN_SEEDS else None)


def test_equal_results_are_equivalent():
    assert equivalence([0.0] * 5, 0.01).result == "equivalent"
