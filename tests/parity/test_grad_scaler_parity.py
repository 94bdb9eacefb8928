"""The drop-in against the referee: the same loop, and only the class of the scaler differs. Everything is bitwise.

But for fused momentum, whose referee is unfused: stock torch is wrong there (see test_scaler_parity.py).
"""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from ampguard.engine import GradScaler

_spec = importlib.util.spec_from_file_location("scaler_parity", Path(__file__).with_name("test_scaler_parity.py"))
assert _spec is not None and _spec.loader is not None
parity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parity)

race = partial(parity.race, lane=partial(parity.theirs, kind=GradScaler), exact=True)
STEPS, OVERFLOWS = parity.STEPS, parity.OVERFLOWS


@pytest.mark.parametrize("max_norm", [None, 0.3])
@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("name", parity.MAKERS)
def test_every_step_is_bitwise_torchs(name, overflow, max_norm):
    race(name, parity.batches([1] * STEPS, OVERFLOWS[overflow]), max_norm=max_norm)


@pytest.mark.parametrize("overflow", ["none", "middle"])
@pytest.mark.parametrize("name", parity.MOMENTUM_FUSED)
def test_fused_momentum_is_bitwise_torchs_where_torchs_works(name, overflow):
    race(name, parity.batches([1] * STEPS, OVERFLOWS[overflow]), late_from=STEPS)


@pytest.mark.parametrize("overflow", [set(), {(2, 3)}, {(STEPS - 1, 1)}])
@pytest.mark.parametrize("name", ["adamw-fused", "sgd-momentum"])
def test_groups_of_four_are_bitwise_torchs(name, overflow):
    race(name, parity.batches([4] * (STEPS - 1) + [2], overflow))


@pytest.mark.parametrize("overflow", ["none", "first", "middle"])
def test_fused_dampened_momentum_is_bitwise_torchs_without_a_scaler_in_the_kernel(overflow):
    """Its first applied step must start the momentum at the whole gradient: the referee unscales and asks first."""

    def referee(device, **law):
        scaler = torch.amp.GradScaler(device, **law)
        stock_step = scaler.step

        def step(optimizer):
            optimizer._step_supports_amp_scaling = False
            stock_step(optimizer)

        scaler.step = step
        return scaler

    maker = parity.torch_optimizer(SGD, momentum=0.9, dampening=0.3, fused=True)
    mine, stock = parity.make(maker), parity.make(maker)
    mine[0].late_from = stock[0].late_from = STEPS
    groups = parity.batches([1] * STEPS, OVERFLOWS[overflow])
    lanes = zip(
        parity.theirs(*mine, groups, None, GradScaler), parity.theirs(*stock, groups, None, referee), strict=True
    )
    for step, (scale, stock_scale) in enumerate(lanes):
        assert scale == stock_scale
        parity.compare(parity.tensors(*mine), parity.tensors(*stock), step, rtol=0, atol=0)


def two_losses_and_optimizers(kind: type[torch.amp.GradScaler]) -> list[torch.Tensor]:
    """The loop of torch's AMP page with two models: one overflows at step 1, the other at step 2, both at 3."""
    torch.manual_seed(4)
    nets = [nn.Linear(4, 3), nn.Linear(3, 1)]
    optimizers = [AdamW(nets[0].parameters(), lr=0.1, fused=True), SGD(nets[1].parameters(), lr=0.1)]
    scaler = kind("cpu", init_scale=2.0**10, growth_interval=2)
    seen = []
    for step in range(6):
        hidden = nets[0](torch.randn(5, 4))
        losses = [hidden.square().mean(), nets[1](hidden.detach()).square().mean()]
        bad = {1: (0,), 2: (1,), 3: (0, 1)}.get(step, ())
        for at, loss in enumerate(scaler.scale(losses)):
            (loss * torch.inf if at in bad else loss).backward()
        scaler.unscale_(optimizers[0])
        nn.utils.clip_grad_norm_(nets[0].parameters(), 0.1)
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update(2.0**8 if step == 4 else None)
        seen += [p.detach().clone() for net in nets for p in net.parameters()]
        seen.append(torch.tensor(scaler.get_scale()))
    return seen


def test_several_optimizers_losses_and_a_new_scale_are_bitwise_torchs():
    mine, stock = (two_losses_and_optimizers(kind) for kind in (GradScaler, torch.amp.GradScaler))
    assert all(torch.equal(a, b) for a, b in zip(mine, stock, strict=True))


def sparse(kind: type[torch.amp.GradScaler]) -> torch.Tensor:
    torch.manual_seed(5)
    table = nn.Embedding(6, 2, sparse=True)
    optimizer, scaler = SGD(table.parameters(), lr=0.1), kind("cpu", init_scale=16.0)
    for step in range(4):
        loss = table(torch.tensor([1, 1, 4])).square().sum() * (torch.inf if step == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return torch.cat([table.weight.detach(), torch.full((1, 2), scaler.get_scale())])


def test_sparse_gradients_are_bitwise_torchs():
    assert torch.equal(sparse(GradScaler), sparse(torch.amp.GradScaler))


def own_grad_scale(kind: type[torch.amp.GradScaler], *, unscaled: bool) -> torch.Tensor:
    weight = nn.Parameter(torch.ones(3))
    optimizer, scaler = SGD([weight], lr=0.1, fused=True), kind("cpu", init_scale=16.0)
    for _ in range(2):
        scaler.scale(weight.square().sum()).backward()
        optimizer.grad_scale = torch.tensor(4.0)
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return weight.detach()


@pytest.mark.parametrize("unscaled", [True, False])
def test_a_grad_scale_that_the_user_set_is_taken_as_torch_takes_it(unscaled):
    mine, stock = (own_grad_scale(kind, unscaled=unscaled) for kind in (GradScaler, torch.amp.GradScaler))
    assert torch.equal(mine, stock)
    assert not torch.equal(mine, torch.full((3,), 1 - 0.1 * 2))
