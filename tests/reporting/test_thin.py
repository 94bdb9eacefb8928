import math
import random

import pytest

from ampguard.reporting.thin import Curve


def read(steps, values, *, part=1000, buckets=50):
    curve = Curve(buckets)
    for start in range(0, len(steps), part):
        curve.add(steps[start : start + part], values[start : start + part])
    return curve


def noisy(count, seed=0):
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(count)]


def test_a_short_curve_is_kept_whole():
    steps, values = list(range(1, 41)), noisy(40)
    curve = read(steps, values)
    assert curve.points == list(zip(steps, values, strict=True))
    assert not curve.thinned


def test_a_long_curve_is_few_points_with_first_last_lowest_and_highest():
    steps, values = list(range(1, 100_001)), noisy(100_000)
    values[70_123], values[31_415] = 1e6, -1e6
    curve = read(steps, values)
    assert len(curve.points) <= 4 * 50
    assert curve.points[0] == (1, values[0]) and curve.points[-1] == (100_000, values[-1])
    assert (70_124, 1e6) in curve.points and (31_416, -1e6) in curve.points
    assert curve.whole.ends == ((1, values[0]), (100_000, values[-1]), (31_416, -1e6), (70_124, 1e6))
    assert curve.count == 100_000 and curve.thinned


def test_every_range_of_steps_keeps_its_own_lowest_and_highest():
    steps, values = list(range(100_000)), noisy(100_000)
    curve = read(steps, values, buckets=50)
    width = 2048
    for start in range(0, 100_000, width):
        part = values[start : start + width]
        kept = [value for step, value in curve.points if start <= step < start + width]
        assert min(kept) == min(part) and max(kept) == max(part)
        assert kept[0] == part[0] and kept[-1] == part[-1]


@pytest.mark.parametrize("part", [1, 7, 1000, 20_000])
def test_the_outcome_does_not_depend_on_how_the_rows_are_cut(part):
    steps, values = list(range(0, 60_000, 3)), noisy(20_000)
    assert read(steps, values, part=part).points == read(steps, values, part=333).points


def test_unevenly_spaced_steps_get_the_room_that_they_take():
    # A million steps logged one by one, as many after them logged every thousandth.
    steps = [*range(100_000), *range(100_000, 200_000, 1000)]
    curve = read(steps, noisy(len(steps)), buckets=100)
    early = sum(step < 100_000 for step, _ in curve.points)
    late = sum(step >= 100_000 for step, _ in curve.points)
    assert late >= 50, (early, late)


def test_steps_far_apart_cost_no_more_than_their_points():
    curve = read([1, 10**15, 10**18], [1.0, 2.0, 3.0])
    assert [value for _, value in curve.points] == [1.0, 2.0, 3.0]


def test_rows_that_come_out_of_order_fall_where_they_belong():
    curve = Curve(50)
    curve.add([10, 11], [1.0, 2.0])
    curve.add([3, 4], [5.0, 6.0])
    assert curve.points == [(3, 5.0), (4, 6.0), (10, 1.0), (11, 2.0)]
    assert curve.whole.last == (11, 2.0)


def test_points_are_finite_and_ascending():
    curve = read(list(range(5000)), noisy(5000))
    steps = [step for step, _ in curve.points]
    assert steps == sorted(set(steps))
    assert all(math.isfinite(value) for _, value in curve.points)


def test_a_range_knows_its_mean():
    curve = read(list(range(100_000)), [float(n % 100) for n in range(100_000)], buckets=20)
    assert sum(bucket.size for bucket in curve.buckets) == 100_000
    assert all(bucket.mean == pytest.approx(49.5, abs=0.5) for bucket in curve.buckets)
    assert read([1, 2], [1.7e308, 1.7e308], buckets=1).buckets[0].mean == 1.7e308
