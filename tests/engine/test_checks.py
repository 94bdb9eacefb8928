"""A model and an optimizer that do not fit together are refused before the first step."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ampguard.engine import Guard
from ampguard.errors import ConfigError, GradientError, InputError, LossError, PrecisionError


def sgd(*modules: nn.Module) -> SGD:
    return SGD([p for module in modules for p in module.parameters()], lr=0.1)


def test_a_parameter_in_two_optimizers_is_refused():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="in two optimizers"):
        Guard(nn.ModuleList([first, second]), [sgd(first), sgd(first, second)])


def test_parameters_on_two_devices_are_refused():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2, device="meta")
    with pytest.raises(ConfigError, match="live on 2 devices: cpu, meta"):
        Guard(nn.ModuleList([first, second]), sgd(first, second))


def test_no_trainable_parameter_is_refused():
    net = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        Guard(net, sgd(net))


def test_no_optimizer_is_refused():
    with pytest.raises(ConfigError, match="got no optimizer"):
        Guard(nn.Linear(2, 2), [])


def test_half_weights_with_scaling_are_refused_by_name():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    with pytest.raises(ConfigError, match=r"'1.weight' is float16.*Remove .half\(\)"):
        Guard(net, sgd(net), precision="fp16", on_unsupported="emulate")


def test_frozen_half_weights_with_scaling_are_fine():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half().requires_grad_(False))
    Guard(net, sgd(net), precision="fp16", on_unsupported="emulate")


def test_clipping_sparse_gradients_is_refused():
    net = nn.Embedding(4, 2, sparse=True)
    with pytest.raises(ConfigError, match=r"max_grad_norm.*sparse"):
        Guard(net, sgd(net), max_grad_norm=1.0)


@pytest.mark.parametrize(("precision", "words"), [("bf17", "Did you mean"), ("fp16-true", "lose every update")])
def test_an_unusable_precision_is_refused(precision, words):
    net = nn.Linear(2, 2)
    with pytest.raises(PrecisionError, match=words):
        Guard(net, sgd(net), precision=precision)


def test_fp16_on_a_cpu_falls_back_loudly_or_is_an_error(caplog):
    net = nn.Linear(2, 2)
    guard = Guard(net, sgd(net), precision="fp16")
    assert guard.decision.granted == "fp32" and "fp16-mixed" in guard.decision.reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(InputError):
        Guard(net, sgd(net), precision="fp16", on_unsupported="error")


def test_a_step_without_any_gradient_is_an_error():
    used, unused = nn.Linear(2, 2), nn.Linear(2, 2)
    guard = Guard(unused, sgd(unused))
    with pytest.raises(GradientError, match=r"no parameter has a gradient.*guard\.backward"):
        guard.step()
    guard.backward(used(torch.ones(1, 2)).sum())
    with pytest.raises(GradientError):
        guard.step()
    assert guard.attempted == 0


def test_gradients_that_did_not_come_through_the_guard_are_an_error():
    net = nn.Linear(2, 2)
    guard = Guard(net, sgd(net))
    before = net.weight.detach().clone()
    net(torch.ones(1, 2)).sum().backward()
    with pytest.raises(LossError, match=r"without a backward.*guard\.backward"):
        guard.step()
    assert torch.equal(net.weight, before)
