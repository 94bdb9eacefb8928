import pytest
import torch

from ampguard.precision import autocast, policy_of, time_passes
from ampguard.precision.measure import MAX_ROUNDS, time_rounds


class Bench:
    """A clock that only passes of known length move, and the order in which they ran."""

    def __init__(self, lengths: dict[str, list[float] | float]) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self.lengths = lengths

    def run(self, precision: str) -> None:
        self.ran.append(precision)
        length = self.lengths[precision]
        self.now += length.pop(0) if isinstance(length, list) else length

    def times(self, budget_s: float = 2.0) -> dict[str, float]:
        return time_passes(self.run, tuple(self.lengths), budget_s=budget_s, clock=lambda: self.now)


def test_each_candidate_gets_its_own_time():
    assert Bench({"fp32": 0.25, "bf16-mixed": 0.125}).times() == {"fp32": 0.25, "bf16-mixed": 0.125}


def test_passes_are_interleaved_after_one_warm_up_of_the_process():
    bench = Bench({"fp32": 0.25, "bf16-mixed": 0.125})
    bench.times()
    # 0.25 + 0.375 for the first passes, then three rounds of 0.375 fit into 2 s.
    assert bench.ran == ["fp32", *["fp32", "bf16-mixed"] * 4]


def test_first_passes_do_not_count_where_a_round_follows():
    half = MAX_ROUNDS // 2
    bench = Bench({"fp32": [8.0, 4.0, *[0.25] * half, *[0.5] * half], "bf16-mixed": 0.125})
    # One value more, above the middle, would move the median to 0.5.
    assert bench.times(budget_s=100.0)["fp32"] == 0.375


def test_one_outlier_does_not_decide():
    bench = Bench({"fp32": [0.25, 0.25, 0.25, 4.0, 0.25], "bf16-mixed": [0.5, 0.5, 0.5, 0.5]})
    # 0.25 + 0.75 + 0.75 + 4.5 s are spent when the last round starts.
    assert bench.times(budget_s=7.5)["fp32"] == 0.25


def test_rounds_are_capped():
    bench = Bench({"fp32": 0.001, "bf16-mixed": 0.001})
    bench.times(budget_s=1000.0)
    assert bench.ran.count("bf16-mixed") == 1 + MAX_ROUNDS


def test_no_round_starts_that_would_pass_the_budget():
    bench = Bench({"fp32": 0.25, "bf16-mixed": 0.25})
    bench.times(budget_s=2.0)
    assert bench.now <= 2.0


def test_a_slow_candidate_runs_once_and_still_has_a_figure():
    bench = Bench({"fp32": 0.125, "fp16-mixed": 16.0})
    assert bench.times() == {"fp32": 0.125, "fp16-mixed": 16.0}
    assert bench.ran.count("fp16-mixed") == 1


def test_nothing_to_compare_is_nothing():
    assert Bench({}).times() == {}


def test_a_failing_pass_is_not_swallowed():
    def run(precision: str) -> None:
        raise ZeroDivisionError(precision)

    with pytest.raises(ZeroDivisionError):
        time_passes(run, ("fp32",))


def test_real_passes_are_timed():
    model = torch.nn.Linear(8, 8)

    def run(precision: str) -> None:
        with autocast(policy_of(precision), "cpu"):
            loss = model(torch.ones(4, 8)).float().sum()
        loss.backward()

    times = time_passes(run, ("fp32", "bf16-mixed"), budget_s=0.05)
    assert set(times) == {"fp32", "bf16-mixed"}
    assert all(seconds > 0 for seconds in times.values())


def test_rounds_are_kept_in_order_where_the_spread_matters():
    bench = Bench({"fp32": [0.25, 0.25, 0.5, 0.25], "bf16-mixed": [1.0, 0.5, 0.75]})
    rounds = time_rounds(bench.run, tuple(bench.lengths), budget_s=3.5, clock=lambda: bench.now)
    # 1.5 s are spent by the first passes, which do not count; then two rounds of 1 s.
    assert rounds == {"fp32": [0.5, 0.25], "bf16-mixed": [0.5, 0.75]}
