"""The law of the loss scale is torch's, between a floor and a ceiling."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ampguard.engine.config import GuardConfig
from ampguard.engine.scale import DynamicScale, NoScale

CPU = torch.device("cpu")
OVERFLOW, FINE = torch.ones(()), torch.zeros(())


def scale(**options) -> DynamicScale:
    return DynamicScale(GuardConfig(**options), CPU)


def history(law: DynamicScale, found_infs: str) -> list[float]:
    values = []
    for flag in found_infs:
        law.update(OVERFLOW if flag == "x" else FINE)
        values.append(law.value.item())
    return values


@pytest.mark.parametrize("found_infs", ["x", "......", "..x..x...xx......", "x....x"])
def test_the_law_is_torchs(found_infs):
    options = {"init_scale": 64.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2}
    weight = nn.Parameter(torch.ones(1))
    optimizer, scaler = SGD([weight], lr=0.0), torch.amp.GradScaler("cpu", **options)
    expected = []
    for flag in found_infs:
        scaler.scale(weight.sum() * (torch.inf if flag == "x" else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        expected.append(scaler.get_scale())
    assert history(scale(**options), found_infs) == expected


def test_the_scale_stops_at_its_floor():
    assert history(scale(init_scale=4.0, min_scale=1.5), "xxx") == [2.0, 1.5, 1.5]


def test_the_scale_stops_at_its_ceiling():
    assert history(scale(init_scale=4.0, max_scale=10.0, growth_interval=1), "...x") == [8.0, 10.0, 10.0, 5.0]


def test_the_host_knows_the_law_of_a_skip():
    law = scale(init_scale=4.0, min_scale=1.5)
    assert [law.after_skip(4.0), law.after_skip(2.0)] == [2.0, 1.5]
    assert law.at_floor(1.5) and not law.at_floor(2.0)


def test_the_divisor_is_a_copy_that_a_later_backoff_does_not_change():
    law = scale(init_scale=4.0)
    divisor = law.unscale(None)
    law.update(OVERFLOW)
    assert divisor == 4.0 and law.unscale(torch.tensor(3.0)) == 6.0


def test_a_half_loss_is_scaled_in_float32():
    scaled = scale().multiply(torch.ones((), dtype=torch.float16))
    assert scaled.dtype == torch.float32 and scaled == 2.0**16


def test_the_state_round_trip_keeps_the_growth_tracker():
    law, other = scale(init_scale=4.0, growth_interval=3), scale(init_scale=32.0, growth_interval=3)
    history(law, "x..")
    other.load_state_dict(law.state_dict())
    assert history(other, "..") == history(law, "..") == [4.0, 4.0]


def test_without_scaling_nothing_is_multiplied_divided_or_reported():
    law = NoScale(CPU)
    loss = torch.ones(())
    law.update(OVERFLOW)
    assert law.multiply(loss) is loss and law.unscale(None) is None and law.value == 1
    assert law.host(1.0) is None and not law.at_floor(1.0) and law.state_dict() == {}
