"""Our fp32 step against a bare hand-written loop: bitwise without clipping, within a derived bound with it."""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from ampguard.engine import Guard

ULP = 2.0**-24
"""Unit roundoff of float32."""
STEPS = 25
MAKERS: dict[str, Callable[..., Optimizer]] = {
    "adamw-fused": lambda groups: AdamW(groups, lr=0.01, fused=True),
    "adamw": lambda groups: AdamW(groups, lr=0.01),
    "adam-amsgrad-fused": lambda groups: Adam(groups, lr=0.01, amsgrad=True, fused=True),
    "sgd-fused": lambda groups: SGD(groups, lr=0.01, weight_decay=0.1, fused=True),
    "sgd-nesterov-fused": lambda groups: SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=True),
    "sgd-dampening": lambda groups: SGD(groups, lr=0.01, momentum=0.9, dampening=0.5),
    "adagrad-fused": lambda groups: Adagrad(groups, lr=0.01, fused=True),
    "adagrad": lambda groups: Adagrad(groups, lr=0.01),
}


def warm_cosine(optimizer: Optimizer) -> LRScheduler:
    warm, cosine = LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, T_max=20)
    return SequentialLR(optimizer, [warm, cosine], milestones=[5])


SCHEDULES: dict[str, Callable[[Optimizer], LRScheduler] | None] = {
    "none": None,
    "lambda": lambda o: LambdaLR(o, [lambda n: 0.97**n, lambda n: 1 / (1 + n)]),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=STEPS),
    "one cycle": lambda o: OneCycleLR(o, max_lr=[0.1, 0.02], total_steps=STEPS + 1, cycle_momentum=False),
    "warm-up, cosine": warm_cosine,
}


def make(name: str) -> tuple[nn.Sequential, Optimizer]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    groups = [{"params": net[0].parameters()}, {"params": [*net[1].parameters(), *net[3].parameters()], "lr": 0.03}]
    return net, MAKERS[name](groups)


def batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(9, 6, generator=draw), torch.randint(0, 3, (9,), generator=draw)


Lrs = list[float]


def bare(net: nn.Module, optimizer: Optimizer, schedule, max_norm: float | None) -> Iterator[Lrs]:
    scheduler = None if schedule is None else schedule(optimizer)
    for step in range(STEPS):
        x, y = batch(step)
        nn.functional.cross_entropy(net(x), y).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        lrs = [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SequentialLR passes the deprecated epoch argument
                scheduler.step()
        yield lrs


def ours(net: nn.Module, optimizer: Optimizer, schedule, max_norm: float | None) -> Iterator[Lrs]:
    guard = Guard(net, optimizer, precision="fp32", schedule=schedule, max_grad_norm=max_norm)
    for step in range(STEPS):
        x, y = batch(step)
        with guard.autocast():
            loss = nn.functional.cross_entropy(net(x), y)
        guard.backward(loss)
        lrs = [float(group["lr"]) for group in optimizer.param_groups]
        guard.step()
        assert guard.read().lr == lrs[0]
        yield lrs


def tensors(net: nn.Module, optimizer: Optimizer) -> Iterator[Tensor]:
    yield from net.state_dict().values()
    for param in net.parameters():
        yield from (value for _, value in sorted(optimizer.state[param].items()) if isinstance(value, Tensor))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", MAKERS)
def test_fp32_without_clipping_is_bitwise_the_bare_loop(name, schedule):
    mine, hand = make(name), make(name)
    factory = SCHEDULES[schedule]
    lanes = zip(ours(*mine, factory, None), bare(*hand, factory, None), strict=True)
    seen = set()
    for step, (our_lrs, bare_lrs) in enumerate(lanes):
        assert our_lrs == bare_lrs, f"LR of step {step}"
        for a, b in zip(tensors(*mine), tensors(*hand), strict=True):
            assert torch.equal(a, b), f"after step {step}"
        seen.add(tuple(our_lrs))
    assert (len(seen) > 1) == (factory is not None)


@pytest.mark.parametrize("name", MAKERS)
def test_fp32_with_clipping_is_the_bare_loop_within_rounding(name):
    """Each step starts from equal numbers; the bound of test_scaler_parity: 16u relative, 16u * lr absolute.

    Here a gradient is divided by fl(1e-6/max_norm + norm/max_norm), there multiplied by fl(max_norm/(norm + 1e-6)).
    """
    mine, hand = make(name), make(name)
    for step, _ in enumerate(zip(ours(*mine, None, 0.2), bare(*hand, None, 0.2), strict=True)):
        for a, b in zip(tensors(*mine), tensors(*hand), strict=True):
            torch.testing.assert_close(a, b, rtol=16 * ULP, atol=16 * ULP * 0.03, msg=lambda m: f"{step}: {m}")  # noqa: B023
            with torch.no_grad():
                a.copy_(b)
