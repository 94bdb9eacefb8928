"""Which optimizers step without the host, and what each way leaves behind."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW

from ampguard.engine.optimizers import make_stepper

FOUND, FINE = torch.ones(()), torch.zeros(())


def params() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("maker", "fused"),
    [
        (lambda p: AdamW(p, fused=True), True),
        (lambda p: Adam(p, fused=True), True),
        # Its kernel takes a loss scale in newer torch only.
        (lambda p: Adagrad(p, fused=True), hasattr(Adagrad(params(), fused=True), "_step_supports_amp_scaling")),
        (lambda p: SGD(p, momentum=0.9, fused=True), True),
        (lambda p: SGD(p, dampening=0.0, fused=True), True),
        (lambda p: SGD(p, momentum=0.9, dampening=0.1, fused=True), False),
        (lambda p: AdamW(p), False),
        (lambda p: AdamW(p, foreach=True), False),
        (lambda p: SGD(p), False),
    ],
)
def test_an_optimizer_is_stepped_without_the_host_where_its_kernel_allows_it(maker, fused):
    assert make_stepper([maker(params())], sparse=False, tables_lr=False).fused is fused
    assert make_stepper([maker(params())], sparse=True, tables_lr=False).fused is False


def test_one_unfused_optimizer_makes_the_sequence_unfused():
    pair = [AdamW(params(), fused=True), AdamW(params())]
    assert not make_stepper(pair, sparse=False, tables_lr=False).fused


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_divides_or_does_nothing(fused):
    weights = params()
    stepper = make_stepper([SGD(weights, lr=1.0, fused=fused)], sparse=False, tables_lr=False)
    for found_inf, expected in [(FOUND, 1.0), (FINE, 0.5)]:
        for weight in weights:
            weight.grad = torch.full_like(weight, 2.0)
        known = stepper.step([w.grad for w in weights], torch.tensor(4.0), found_inf)
        assert known is (None if fused else found_inf is FINE)
        assert all(weight.detach().eq(expected).all() for weight in weights)


def test_a_fused_sgd_has_zeros_for_momentum_before_its_first_step_and_after_loading():
    weights = params()
    weights[1].requires_grad_(False)  # it may be unfrozen later
    optimizer = SGD(weights, momentum=0.9, fused=True)
    make_stepper([optimizer], sparse=False, tables_lr=False)
    for _ in range(2):
        assert all(optimizer.state[weight]["momentum_buffer"].eq(0).all() for weight in weights)
        optimizer.load_state_dict(SGD(params(), momentum=0.9, fused=True).state_dict())


def test_the_operands_do_not_stay_on_the_optimizer():
    weights = params()
    optimizer = AdamW(weights, fused=True)
    weights[0].grad = torch.ones(3)
    make_stepper([optimizer], sparse=False, tables_lr=False).step([weights[0].grad], None, FINE)
    assert not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")
