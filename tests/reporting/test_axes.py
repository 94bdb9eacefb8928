import itertools
import math

import pytest

from ampguard.reporting.axes import Linear, Log, Steps, make_axis

SIZES = (1e-200, 1e-8, 0.003, 0.0371, 1.0, 1.0000001, 8.64, 65536.0, 1.6e7, 1e200)


def ranges():
    return list(itertools.combinations_with_replacement(SIZES, 2))


def signed_ranges():
    sizes = [*SIZES, 5e-324, 1.7e308]
    return itertools.combinations_with_replacement(sorted([*sizes, 0.0, *(-size for size in sizes)]), 2)


@pytest.mark.parametrize("kind", ["linear", "log", "log2"])
def test_any_range_has_ticks_within_it_and_places_between_its_ends(kind):
    for low, high in signed_ranges() if kind == "linear" else ranges():
        axis = make_axis(kind, low, high)
        assert axis.low < axis.high
        assert 0 <= axis.share(low) <= axis.share(high) <= 1
        ticks = axis.ticks(5)
        assert ticks == sorted(set(ticks))
        assert all(0 <= axis.share(tick) <= 1 for tick in ticks)
        assert len(ticks) <= 12, (low, high, ticks)


def test_usual_ranges_have_several_round_ticks():
    assert Linear(0.03, 2.8).ticks(5) == [0.0, 1.0, 2.0]
    assert Log(0.24, 9.3).ticks(5) == [0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    assert Log(2.0**4, 2.0**16, base=2).ticks(5) == [2.0**n for n in (4, 7, 10, 13, 16)]


def test_a_linear_axis_of_small_positive_values_begins_at_zero():
    assert Linear(1.0, 10.0).low == 0.0
    assert Linear(9.0, 10.0).low > 5.0


def test_a_logarithm_has_equal_ratios_at_equal_distances():
    axis = Log(1.0, 10_000.0)
    assert axis.share(10.0) - axis.share(1.0) == pytest.approx(axis.share(1000.0) - axis.share(100.0))


def test_ticks_of_steps_are_whole():
    assert all(tick == int(tick) for tick in Steps(1, 3).ticks(5))
    assert Steps(7, 7).share(7) == 0.5


def test_one_value_stands_in_the_middle_of_its_axis():
    assert Linear(0.99, 0.99).share(0.99) == pytest.approx(0.5)
    assert Log(0.99, 0.99).share(0.99) == pytest.approx(0.5)
    assert math.isfinite(Linear(1.7e308, 1.7e308).share(1.7e308))
