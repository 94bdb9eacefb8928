"""On a clock that only operations of known length move; the last tests on real, small operations."""

import json
from itertools import cycle, groupby

import pytest
import torch

from ampguard.hardware import cpu_hardware, cuda_hardware, inspect
from ampguard.precision import blocks, policy_of
from ampguard.precision.blocks import BLOCK_S, SIZES, TRIAD_BYTES, Kernels, Timing
from ampguard.precision.measure import MAX_ROUNDS
from ampguard.precision.rates import measure_rates

CPU = torch.device("cpu")
BF16_CPU = cpu_hardware("model name : Xeon\nflags : avx512_bf16\n", machine="x86_64", torch_bf16=True)


class Simulated:
    """Kernels whose length follows from a rate for each dtype, and the clock that they move."""

    def __init__(self, flops, *, triad_s=0.01, largest=None, factors=(1.0,), least=0.0):
        self.now = 0.0
        self.flops = flops
        self.triad_s = triad_s
        self.largest = largest or {}
        self.factors = cycle(factors)
        self.least = least
        self.ran = []

    def clock(self):
        return self.now

    def matmul(self, policy, size):
        if size > self.largest.get(policy.name, SIZES[-1]):
            raise torch.OutOfMemoryError("CUDA out of memory\nand a page of advice")
        return self._taking(2 * size**3 / self.flops[policy.compute_dtype], (policy.name, size))

    def triad(self, policy):
        return self._taking(self.triad_s, (policy.name, "triad"))

    def _taking(self, seconds, name):
        def run():
            self.ran.append(name)
            self.now += max(self.least, seconds * next(self.factors))

        return run

    def rates(self, hardware=BF16_CPU, device=CPU, **options):
        return measure_rates(hardware, device, kernels=self, clock=self.clock, **options)


FLOPS = {torch.float32: 1e12, torch.bfloat16: 4e12, torch.float16: 1e9}


def test_the_rate_is_2mnk_over_the_time_and_the_ratio_is_of_the_same_product():
    rates = Simulated(FLOPS).rates()
    bf16 = rates.of("bf16-mixed")
    assert bf16.measured_tflops == pytest.approx(4.0)
    assert bf16.ratio_to_fp32 == pytest.approx(4.0)
    assert bf16.slower_than_fp32 is False
    assert rates.of("fp32").ratio_to_fp32 == 1.0


def test_bandwidth_counts_the_bytes_of_three_arrays():
    rates = Simulated(FLOPS, triad_s=0.5).rates()
    assert rates.of("fp32").bandwidth_gb_per_s == pytest.approx(3 * TRIAD_BYTES / 0.5 / 1e9)


def test_matrices_grow_until_a_product_takes_its_time_and_fp32_multiplies_at_each_size():
    simulated = Simulated(FLOPS)
    rates = simulated.rates()
    # 2 * 1024**3 / 1e12 s = 2 ms, 2048: 17 ms; bf16 at 2048: 4.3 ms, 4096: 34 ms; fp16 at 128: 4 ms, 256: 34 ms.
    sizes = {name: rates.of(name).matmul_shape for name in ("fp32", "bf16-mixed", "fp16-mixed")}
    assert sizes == {"fp32": [2048] * 3, "bf16-mixed": [4096] * 3, "fp16-mixed": [256] * 3}
    assert {("fp32", 2048), ("fp32", 4096), ("fp32", 256)} <= set(simulated.ran)


def test_matrices_go_on_growing_where_a_busy_machine_makes_small_ones_slow():
    simulated = Simulated(FLOPS, least=0.03)
    # All up to 2048 take 30 ms, 4096 takes 137 ms; bf16 at 4096: 34 ms, at 8192: 275 ms.
    rates = simulated.rates()
    assert rates.of("fp32").matmul_shape == [4096] * 3
    assert rates.of("bf16-mixed").matmul_shape == [8192] * 3
    assert rates.of("fp32").measured_tflops == pytest.approx(1.0)


def test_a_single_slow_pass_does_not_end_the_growth():
    rates = Simulated(FLOPS, factors=(60.0, *[1.0] * 6)).rates()
    assert rates.of("fp32").matmul_shape == [2048] * 3


def test_short_products_are_repeated_to_fill_a_block():
    simulated = Simulated(dict.fromkeys(FLOPS, 2 * SIZES[-1] ** 3 / (BLOCK_S / 4)))
    rate = simulated.rates().of("fp32")
    assert rate.matmul_shape == [SIZES[-1]] * 3
    assert rate.matmul_ms["median"] == pytest.approx(BLOCK_S / 4 * 1e3)
    # Rounds run it four times in a row, untimed warm-up and first round included.
    assert simulated.ran.count(("fp32", SIZES[-1])) >= 4 * MAX_ROUNDS


def test_rounds_are_interleaved_so_that_drift_reaches_all():
    simulated = Simulated(FLOPS)
    simulated.rates(budget_s=100.0)
    blocks_run = [name for name, _ in groupby(simulated.ran)]
    round_ = ["fp32 2048", "fp32 triad", "bf16-mixed 4096", "fp32 4096", "bf16-mixed triad"]
    round_ += ["fp16-mixed 256", "fp32 256", "fp16-mixed triad"]
    assert [f"{name} {what}" for name, what in blocks_run[-24:]] == round_ * 3


def test_precisions_that_compute_in_one_dtype_share_one_measurement():
    simulated = Simulated(FLOPS)
    rates = simulated.rates()
    assert rates.of("bf16-true") == rates.of("bf16-mixed")
    assert not any(name == "bf16-true" for name, _ in simulated.ran)


def test_the_median_and_its_spread_come_with_their_number():
    rate = Simulated(FLOPS, factors=(1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0)).rates(budget_s=100.0).of("bf16-mixed")
    assert rate.matmul_ms["n"] == MAX_ROUNDS
    assert rate.matmul_ms["median"] == pytest.approx(2 * 4096**3 / 4e12 * 1e3)


def test_quartiles_need_no_second_round():
    assert Timing((0.5,)).as_ms() == {"median": 500.0, "iqr": 0.0, "n": 1}
    assert Timing((0.25, 0.5, 0.75)).as_ms() == {"median": 500.0, "iqr": 250.0, "n": 3}


def test_what_nothing_computes_is_a_row_with_a_reason():
    rates = Simulated(FLOPS).rates()
    for name in ("tf32", "fp8-mixed"):
        assert rates.of(name).measured_tflops is None
        assert "GPU" in rates.of(name).reason


def test_what_this_version_does_not_compute_is_a_row_with_a_reason():
    simulated = Simulated(FLOPS)
    fp8 = simulated.rates(cuda_hardware("NVIDIA H200", (9, 0))).of("fp8-mixed")
    assert fp8.measured_tflops is None and fp8.reason


def test_running_out_of_memory_at_once_is_a_row_with_a_reason_and_the_rest_still_runs():
    rates = Simulated(FLOPS, largest={"bf16-mixed": 1}).rates()
    assert rates.of("bf16-mixed").measured_tflops is None
    assert rates.of("bf16-mixed").reason == "OutOfMemoryError: CUDA out of memory"
    assert rates.of("fp16-mixed").measured_tflops == pytest.approx(1e-3)


def test_running_out_of_memory_later_keeps_the_last_size_that_fitted():
    rate = Simulated(FLOPS, largest={"bf16-mixed": 512}).rates().of("bf16-mixed")
    assert rate.matmul_shape == [512] * 3 and rate.reason is None
    assert rate.measured_tflops == pytest.approx(4.0)


def test_a_clock_that_stands_still_gives_no_figure_and_a_reason():
    rate = Simulated(dict.fromkeys(FLOPS, float("inf")), triad_s=0.0).rates().of("fp32")
    assert (rate.measured_tflops, rate.ratio_to_fp32, rate.bandwidth_gb_per_s) == (None, None, None)
    assert "no time" in rate.reason


def test_slower_than_fp32_is_said_only_where_the_ranges_do_not_touch():
    slow = dict(FLOPS) | {torch.bfloat16: 0.5e12}
    assert Simulated(slow).rates().of("bf16-mixed").slower_than_fp32 is True
    near = dict(FLOPS) | {torch.bfloat16: 0.99e12}
    assert Simulated(near, factors=(1.0, 1.5, 0.7, 1.2, 0.9)).rates().of("bf16-mixed").slower_than_fp32 is False


def test_the_budget_bounds_the_rounds():
    simulated = Simulated(dict.fromkeys(FLOPS, 2 * SIZES[0] ** 3 / 0.25), triad_s=0.25)
    simulated.rates(budget_s=4.0)
    # Sizes: three dtypes, product and triad, each twice. Then at most the budget.
    assert simulated.now <= 12 * 0.25 + 4.0


def test_progress_is_told_from_nothing_to_nearly_all():
    told = []
    Simulated(FLOPS).rates(budget_s=100.0, tell=lambda what, share: told.append((what, share)))
    assert told[0] == ("sizes for fp32", 0.0)
    shares = [share for _, share in told]
    assert shares == sorted(shares) and 0.9 < shares[-1] < 1.0


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(blocks, "SIZES", (8, 16))
    monkeypatch.setattr(blocks, "BLOCK_S", 1e-5)
    monkeypatch.setattr(blocks, "TRIAD_BYTES", 64)


def test_real_operations_have_finite_rates_and_leave_random_numbers_alone(small):
    before = torch.get_rng_state()
    rates = measure_rates(inspect("cpu"), CPU, budget_s=0.02)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true"):
        rate = rates.of(name)
        assert rate.measured_tflops > 0 and rate.ratio_to_fp32 > 0 and rate.bandwidth_gb_per_s > 0
    assert rates.settings["threads"] == torch.get_num_threads()
    json.dumps(rates.settings, allow_nan=False)


@pytest.mark.parametrize("name", ["fp32", "bf16-mixed", "fp16-mixed"])
def test_real_operations_compute_in_the_dtype_of_the_precision(name, small):
    kernels, policy = Kernels(CPU), policy_of(name)
    assert kernels.matmul(policy, 8)().dtype == policy.compute_dtype
    array = kernels.triad(policy)()
    assert array.dtype == policy.compute_dtype and array.nbytes == 64


def test_the_triad_is_b_plus_three_c(small):
    kernels = Kernels(CPU)
    run = kernels.triad(policy_of("fp32"))
    _, b, c = kernels._arrays.view(torch.float32)
    b.fill_(1.0)
    c.fill_(2.0)
    assert torch.equal(run(), torch.full((16,), 7.0))


def test_tf32_is_on_for_its_own_products_only_and_afterwards_as_before():
    cuda = torch.device("cuda")
    seen = {}

    class Looking(Simulated):
        def matmul(self, policy, size):
            run = super().matmul(policy, size)
            look = torch.get_float32_matmul_precision

            def looking():
                seen.setdefault(policy.name, set()).add(look())
                run()

            return looking

    found = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32
    Looking(FLOPS).rates(cuda_hardware("NVIDIA H200", (9, 0)), cuda)
    assert seen["tf32"] == {"high"} and seen["fp32"] == {"highest"}
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (found, cudnn)
