import math

import pytest
import torch

from ampguard.health.formats import FORMATS, LOSS_SCALE, LOSS_SCALES, Edge
from ampguard.health.histogram import BINS, EDGES, Histogram, count_into

EACH = pytest.mark.parametrize("item", FORMATS.values(), ids=FORMATS)


def histogram(values):
    counts = torch.zeros(BINS, dtype=torch.int64)
    count_into(counts, values.abs())
    return Histogram(counts.tolist())


def overflows(x, item):
    """Return what a cast takes beyond the largest value: to inf, to NaN, or back by more than a rounding can."""
    step = torch.finfo(item.dtype).eps * 2.0 ** math.floor(math.log2(item.largest))
    cast = x.to(item.dtype).to(x.dtype)
    return ~cast.isfinite() | ((cast == item.largest) & (x - cast > step / 2))


def flushes(x, item):
    return x.to(item.dtype).to(x.dtype) == 0


def is_subnormal(x, item):
    cast = x.to(item.dtype).to(x.dtype)
    return (cast > 0) & (cast < torch.finfo(item.dtype).tiny)


def around(*values):
    """Return each value and its four neighbours in float32."""
    x = torch.tensor(values, dtype=torch.float32)
    found, up, down = [x], x, x
    for _ in range(2):
        up, down = up.nextafter(torch.tensor(math.inf)), down.nextafter(torch.tensor(0.0))
        found += [up, down]
    return torch.cat(found)


def magnitudes(n=20000):
    """Return float32 magnitudes of every exponent, subnormals included."""
    exponents = torch.randint(-149, 128, (n,)).double()
    return ((1 + torch.rand(n, dtype=torch.float64)) * 2**exponents).float()


@EACH
def test_each_edge_is_where_torchs_cast_changes_its_mind(item):
    x = around(item.overflow.value, item.flush.value, item.normal.value, item.largest, item.smallest)
    for value in x[x > 0].split(1):
        seen = histogram(value)
        assert seen.overflow_pct(item) == 100 * bool(overflows(value, item)), value.item()
        assert seen.underflow_pct(item) == 100 * bool(flushes(value, item)), value.item()
        assert seen.subnormal_pct(item) == 100 * bool(is_subnormal(value, item)), value.item()


@EACH
def test_shares_are_those_of_a_cast_to_the_last_value(item):
    x = torch.cat([magnitudes(), around(item.overflow.value, item.flush.value)])
    seen, n = histogram(x), len(x)
    assert seen.nonzero == n
    assert seen.overflow_pct(item) == 100.0 * overflows(x, item).sum().item() / n
    assert seen.underflow_pct(item) == 100.0 * flushes(x, item).sum().item() / n
    assert seen.subnormal_pct(item) == 100.0 * is_subnormal(x, item).sum().item() / n


def test_the_share_at_the_default_loss_scale_is_that_of_a_cast():
    fp16 = FORMATS["fp16"]
    x = torch.cat([magnitudes(), around(fp16.flush.value / LOSS_SCALE)])
    x = x[x < 2.0**100]
    assert histogram(x).flushed_pct(fp16, LOSS_SCALE) == 100.0 * flushes(x * LOSS_SCALE, fp16).sum().item() / len(x)


@pytest.mark.parametrize("scale", [2.0**5, 2.0**24, 3.0, 448 / 0.7])
@EACH
def test_the_share_at_another_scale_is_a_bound_of_less_than_one_exponent(item, scale):
    x = magnitudes()
    x = x[(x < 2.0**100) & (x > 2.0**-120)]
    seen, true = histogram(x), flushes(x * scale, item).sum().item()
    bound = seen.flushed_pct(item, scale) * len(x) / 100
    lowest, counts = seen.exponents()
    exponent = math.floor(math.log2(item.flush.value / scale)) - lowest
    at_edge = counts[exponent] if 0 <= exponent < len(counts) else 0
    assert round(bound) <= true <= round(bound) + (at_edge if scale in (3.0, 448 / 0.7) else 0)


@pytest.mark.parametrize("scale", LOSS_SCALES)
def test_the_share_at_a_loss_scale_is_exact(scale):
    fp16 = FORMATS["fp16"]
    x = around(fp16.flush.value / scale)
    assert histogram(x).flushed_pct(fp16, scale) == 100.0 * flushes(x * scale, fp16).sum().item() / len(x)


def test_another_power_of_two_misses_only_what_equals_the_edge():
    fp16, scale = FORMATS["fp16"], 2.0**30
    x = around(fp16.flush.value / scale)
    missed = flushes(x * scale, fp16) & ~(x < fp16.flush.value / scale)
    assert histogram(x).flushed_pct(fp16, scale) == 100.0 * (x < fp16.flush.value / scale).sum().item() / len(x)
    assert set(x[missed].tolist()) == {2.0**-55}


def test_exponents_are_those_of_frexp():
    x = magnitudes()
    lowest, counts = histogram(x).exponents()
    true = torch.frexp(x).exponent - 1
    assert lowest == true.min() and counts == torch.bincount(true - true.min()).tolist()


def test_zeros_and_non_finite_values_stand_apart():
    seen = histogram(torch.tensor([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan]))
    assert (seen.total, seen.zeros, seen.nonfinite, seen.nonzero) == (6, 2, 3, 1)
    assert seen.exponents() == (0, [1])
    assert seen.overflow_pct(FORMATS["fp16"]) == 0


def test_nothing_counted_is_no_division_by_zero():
    seen = histogram(torch.zeros(3))
    assert (
        seen.exponents() == (0, []) and seen.overflow_pct(FORMATS["e4m3"]) == seen.underflow_pct(FORMATS["fp16"]) == 0
    )


def test_float64_beyond_float32_is_counted_at_the_ends():
    seen = histogram(torch.tensor([5e-324, 1e-300, 1.0, 1e300], dtype=torch.float64))
    lowest, counts = seen.exponents()
    assert (seen.zeros, seen.nonfinite, lowest, counts[0], counts[-1], sum(counts)) == (0, 0, -149, 2, 1, 4)
    assert seen.overflow_pct(FORMATS["bf16"]) == 25 and seen.underflow_pct(FORMATS["bf16"]) == 50


def test_float64_edges_are_as_sharp_as_float64():
    fp16 = FORMATS["fp16"]
    x = torch.tensor([2.0**-25, math.nextafter(2.0**-25, 1.0)], dtype=torch.float64)
    assert histogram(x[:1]).underflow_pct(fp16) == 100 and histogram(x[1:]).underflow_pct(fp16) == 0


def test_edges_are_sorted_and_end_with_infinity():
    assert list(EDGES) == sorted(set(EDGES)) and EDGES[-1] == Edge(math.inf) and EDGES[0] == Edge(2.0**-149)


def test_limits_are_the_published_ones():
    assert {name: item.largest for name, item in FORMATS.items()} | {"bf16": 0} == {
        "fp16": 65504,
        "bf16": 0,
        "e4m3": 448,
        "e5m2": 57344,
    }
    assert {name: item.smallest for name, item in FORMATS.items()} == {
        "fp16": 2.0**-24,
        "bf16": 2.0**-133,
        "e4m3": 2.0**-9,
        "e5m2": 2.0**-16,
    }
