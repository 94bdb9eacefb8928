"""Options that no run could mean are refused when they are given, with what is allowed."""

import dataclasses

import pytest
from torch import nn
from torch.optim import SGD

from ampguard.engine import Guard, GuardConfig
from ampguard.errors import ConfigError, InputError

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("init_scale", (0.0, -1.0, INF, NAN, 0.5, 2.0**25)),
        ("growth_factor", (1.0, 0.5, 0.0, -2.0, INF, NAN)),
        ("backoff_factor", (0.0, 1.0, 1.5, -0.5, INF, NAN)),
        ("growth_interval", (0, -1)),
        ("min_scale", (0.0, -1.0, INF, NAN)),
        ("max_scale", (0.0, 0.5, INF, NAN)),
        ("max_grad_norm", (0.0, -1.0, INF, NAN)),
        ("ema", (0.0, 1.0, -0.1, NAN)),
        ("check_every", (0, -1)),
        ("max_skip_streak", (0, -1)),
    ],
)
def test_a_value_out_of_range_is_named(name, values):
    for value in values:
        with pytest.raises(ConfigError, match=f"{name} is {value!r}; it must be"):
            GuardConfig(**{name: value})


@pytest.mark.parametrize(
    ("given", "meant"), [("max_norm", "max_grad_norm"), ("int_scale", "init_scale"), ("grow_factor", "growth_factor")]
)
def test_an_unknown_option_is_answered_with_a_close_one(given, meant):
    net = nn.Linear(2, 2)
    with pytest.raises(InputError, match=f"Guard has no option {given!r}.*Allowed: .*Did you mean {meant!r}") as caught:
        Guard(net, SGD(net.parameters(), lr=0.1), **{given: 1.0})
    assert caught.value.exit_code == 2


def test_an_option_lies_over_the_config():
    net = nn.Linear(2, 2)
    guard = Guard(net, SGD(net.parameters(), lr=0.1), GuardConfig(check_every=7, ema=0.5), check_every=9)
    assert (guard.config.check_every, guard.config.ema) == (9, 0.5)


def test_an_option_is_checked_where_it_lies_over_the_config():
    net = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="check_every is 0"):
        Guard(net, SGD(net.parameters(), lr=0.1), GuardConfig(), check_every=0)


def test_what_changes_a_run_is_off_unless_asked_and_the_law_is_torchs():
    config = GuardConfig()
    assert config.max_grad_norm is config.schedule is config.ema is None
    assert (config.init_scale, config.growth_factor, config.backoff_factor, config.growth_interval) == (
        65536,
        2,
        0.5,
        2000,
    )
    assert (config.min_scale, config.max_scale) == (1.0, 2.0**24)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ema = 0.5
