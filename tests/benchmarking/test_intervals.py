import math

import numpy as np
import pytest
from scipy.stats import binom, quantile_test

from ampguard.benchmarking.intervals import MIN_RATIOS, Z95, inflation, median_interval, speedup
from ampguard.benchmarking.protocol import interleave

NOISES = ("iid", "drift", "bursts", "ar1", "own_ar1")
BENCHES, BLOCKS = 1000, 20


def bench(machine, seed, ratio):
    runners = {"fp32": machine.runner(0.1 * ratio), "bf16-mixed": machine.runner(0.1)}
    times = interleave(runners, blocks=BLOCKS, seed=seed).blocks_s
    return speedup(times["fp32"], times["bf16-mixed"])


@pytest.mark.parametrize("kind", NOISES)
def test_the_interval_holds_the_truth_as_often_as_it_says(kind, machine):
    found = [bench(machine(kind, seed), seed, 1.7) for seed in range(BENCHES)]
    covered = np.mean([low <= 1.7 <= high for low, high in (item.ci95 for item in found)])
    assert (0.93 <= covered <= 0.97) if kind == "iid" else covered >= 0.90, covered


@pytest.mark.parametrize("kind", NOISES)
def test_a_slow_down_of_20_percent_is_found_in_95_of_100(kind, machine):
    found = [bench(machine(kind, seed), seed, 1 / 1.2) for seed in range(100)]
    assert sum(item.ci95[1] < 1.0 for item in found) >= 95


def test_a_bootstrap_without_regard_to_order_would_not_cover_remembered_noise(machine):
    """The reason for `inflation`: without it the same intervals miss the truth twice as often as they say."""
    rng, missed = np.random.default_rng(0), 0
    for seed in range(400):
        times = interleave(
            {"a": machine("own_ar1", seed).runner(1.0), "b": machine("own_ar1", seed + 10_000).runner(1.0)},
            blocks=BLOCKS,
            seed=seed,
        ).blocks_s
        ratios = np.log(np.array(times["a"]) / np.array(times["b"]))
        low, high = np.quantile(np.median(rng.choice(ratios, (200, BLOCKS)), axis=1), (0.025, 0.975))
        missed += not low <= 0 <= high
    assert missed / 400 > 0.10


@pytest.mark.parametrize("n", [10, 16, 20, 50, 200])
def test_interval_lies_between_the_exact_ones_of_scipy(n):
    """The exact sign-test intervals come in steps of rank; ours is interpolated between two of them."""
    values = np.random.default_rng(n).permutation(n).astype(float)
    low, high = median_interval(values)
    assert inflation(values) == 1.0
    exact = quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    # One rank further in covers less than 95 %, one further out more.
    assert abs(low - exact.low) <= 1.0
    assert abs(high - exact.high) <= 1.0
    assert binom.cdf(math.floor(n / 2 - Z95 * math.sqrt(n) / 2), n, 0.5) == pytest.approx(0.025, abs=0.025)


def test_inflation_is_that_of_an_autoregressive_series():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=20_000)
    for i in range(1, len(noise)):
        noise[i] += 0.5 * noise[i - 1]
    assert inflation(noise) == pytest.approx((1 + 0.5) / (1 - 0.5), rel=0.05)


def test_outliers_stay_in_and_do_not_move_the_median():
    base = [1.0] * 20
    other = [0.5] * 17 + [50.0] * 3
    found = speedup(base, other)
    assert found.median == 2.0
    assert found.n == 20


def test_blocks_without_time_give_no_ratio_and_say_so():
    assert speedup([], []).reason == "no block was measured"
    nothing = speedup([0.0] * 12, [0.0] * 12)
    assert (nothing.median, nothing.ci95, nothing.iqr, nothing.spread) == (None, None, None, None)
    assert "clock" in nothing.reason
    some = speedup([1.0] * 12, [0.5] * 10 + [0.0] * 2)
    assert some.median == 2.0
    assert some.n == 10
    assert "2 blocks" in some.reason


def test_too_few_blocks_give_a_median_without_an_interval():
    found = speedup([1.0] * (MIN_RATIOS - 1), [0.5] * (MIN_RATIOS - 1))
    assert found.median == 2.0
    assert found.ci95 is None
    assert "10 blocks" in found.reason


def test_equal_times_give_an_interval_of_one_point():
    assert speedup([1.0] * 20, [1.0] * 20).ci95 == (1.0, 1.0)


def test_blocks_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        speedup([1.0], [])
