"""The loss of a step is one weighted mean; what cannot be one is refused with the reason."""

import pytest
import torch
from torch import nn

from ampguard import LossSum
from ampguard.engine.accumulate import Accumulator
from ampguard.errors import LossError

CPU = torch.device("cpu")


def loss(value: float = 2.0) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True)


def test_a_plain_loss_is_added_as_torch_adds_it():
    accumulator = Accumulator(CPU)
    assert accumulator.add(loss(2.0), None) == 2 and accumulator.add(loss(3.0), None) == 3
    assert accumulator.ratio() is None
    assert accumulator.loss(None) == 5


@pytest.mark.parametrize("tensor", [False, True])
def test_the_first_count_stays_the_reference(tensor):
    accumulator = Accumulator(CPU)
    for counts in ([4], [2, 6], [1]):
        for count in counts:
            part = accumulator.add(LossSum(loss(8.0), torch.tensor(count) if tensor else count), None)
            assert part == 2.0
        ratio = accumulator.ratio()
        assert (1.0 if ratio is None else ratio) == sum(counts) / 4
        assert accumulator.loss(ratio) == 8.0 * len(counts) / sum(counts)
        accumulator.clear()


def test_a_weight_is_the_count_of_a_mean():
    accumulator = Accumulator(CPU)
    assert accumulator.add(loss(2.0), 5) == 2.0
    assert accumulator.add(loss(3.0), 10) == 6.0
    assert accumulator.loss(accumulator.ratio()) == pytest.approx((2 * 5 + 3 * 10) / 15)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_loaded_reference_divides_bit_for_bit_as_the_one_saved(tensor):
    def count(n: int) -> int | torch.Tensor:
        return torch.tensor(n) if tensor else n

    accumulator, resumed = Accumulator(CPU), Accumulator(CPU)
    accumulator.add(LossSum(loss(), count(3)), None)
    accumulator.clear()
    resumed.load_state_dict(accumulator.state_dict())
    for value in (1.0, 0.1, 7.7):
        parts = [each.add(LossSum(loss(value), count(7)), None) for each in (accumulator, resumed)]
        assert parts[0].dtype == parts[1].dtype and torch.equal(*parts)
    assert torch.equal(accumulator.loss(accumulator.ratio()), resumed.loss(resumed.ratio()))


def test_kinds_of_loss_do_not_mix_within_a_step():
    for first, second in [((loss(), None), (LossSum(loss(), 2), None)), ((loss(), 2), (loss(), None))]:
        accumulator = Accumulator(CPU)
        accumulator.add(*first)
        with pytest.raises(LossError, match="mixes"):
            accumulator.add(*second)
        accumulator.clear()
        accumulator.add(*second)


@pytest.mark.parametrize(
    ("given", "weight", "words"),
    [
        (torch.ones(3, requires_grad=True), None, r"shape \(3,\).*must be a scalar"),
        (torch.ones(()), None, "not connected to the model"),
        (torch.ones((), dtype=torch.int64), None, "torch.int64.*must be floating point"),
        (torch.ones((), dtype=torch.bool), None, "torch.bool"),
        (1.5, None, "a float, not a tensor"),
        (None, None, "a NoneType, not a tensor"),
        (LossSum(torch.ones(2, requires_grad=True), 2), None, "must be a scalar"),
        (LossSum(torch.ones(()), 2), None, "not connected"),
        (LossSum(loss(), 0), None, "count of a loss is 0; it must be > 0"),
        (LossSum(loss(), -1), None, "is -1"),
        (loss(), 0, "is 0"),
        (loss(), float("nan"), "is nan"),
        (LossSum(loss(), 2), 2, "LossSum and a weight"),
    ],
)
def test_a_loss_that_cannot_be_taken_is_refused(given, weight, words):
    with pytest.raises(LossError, match=words):
        Accumulator(CPU).add(given, weight)


def test_a_loss_of_one_element_is_a_scalar():
    assert Accumulator(CPU).add(torch.ones(1, 1, requires_grad=True), None).shape == ()


def test_a_step_without_backward_is_refused():
    with pytest.raises(LossError, match="without a backward"):
        Accumulator(CPU).loss(None)


def test_a_half_loss_is_reported_in_float32():
    accumulator = Accumulator(CPU)
    accumulator.add(nn.Parameter(torch.ones((), dtype=torch.float16)), None)
    assert accumulator.loss(None).dtype == torch.float32
