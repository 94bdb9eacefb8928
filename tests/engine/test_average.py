"""The averaged weights follow applied steps only and can be worn and taken off without a trace."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ampguard.engine import Guard
from ampguard.errors import CheckpointError, ConfigError


def make(**options) -> tuple[nn.Linear, Guard]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    return net, Guard(net, SGD(net.parameters(), lr=0.1, fused=True), **{"ema": 0.9, **options})


def attempt(net: nn.Module, guard: Guard, *, bad: bool = False) -> None:
    with guard.autocast():
        loss = net(torch.full((2, 3), torch.nan if bad else 1.0)).pow(2).mean()
    guard.backward(loss)
    guard.step()


def averages(guard: Guard) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in guard.state_dict()["ema"].items()}


def test_the_average_is_the_warmed_up_recursion_over_applied_steps():
    net, guard = make()
    expected = net.weight.detach().double()
    applied = 0
    for attempted in range(12):
        bad = attempted in (0, 4, 5)
        attempt(net, guard, bad=bad)
        if not bad:
            applied += 1
            decay = min(0.9, (1 + applied) / (10 + applied))
            expected = decay * expected + (1 - decay) * net.weight.detach().double()
    # 9 updates of 3 roundings each, u = 2**-24, on numbers below 1: 27u = 1.7e-6.
    torch.testing.assert_close(averages(guard)["weight"].double(), expected, rtol=0, atol=2e-6)


def test_a_skipped_step_moves_no_average():
    net, guard = make()
    attempt(net, guard)
    before = averages(guard)
    attempt(net, guard, bad=True)
    assert all(torch.equal(value, before[key]) for key, value in averages(guard).items())


def test_averaged_swaps_the_weights_in_and_restores_them_bitwise():
    net, guard = make()
    for _ in range(3):
        attempt(net, guard)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    average = averages(guard)
    with pytest.raises(KeyError), guard.averaged():
        assert all(torch.equal(value, average[key]) for key, value in net.state_dict().items())
        assert not torch.equal(net.weight, weights["weight"])
        raise KeyError("an evaluation that fails")
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(value, average[key]) for key, value in averages(guard).items())


def test_without_ema_there_is_nothing_to_average():
    _, guard = make(ema=None)
    with pytest.raises(ConfigError, match="keeps no average"):
        guard.averaged()


def test_a_state_with_other_averages_is_refused():
    _, with_ema = make()
    _, without = make(ema=None)
    with pytest.raises(CheckpointError, match="holds an EMA"):
        without.load_state_dict(with_ema.state_dict())
    with pytest.raises(CheckpointError, match="of other parameters"):
        with_ema.load_state_dict(without.state_dict())
