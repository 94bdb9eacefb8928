"""Token-weighted accumulation against the gradient of the one true weighted mean, computed in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from ampguard import LossSum
from ampguard.engine import Guard

TOKENS = ([7], [700, 13, 401], [3, 3, 3, 1])
LR = 1.0


def start() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(5, 4)


def micro_batches(tokens: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Micro-batches whose losses differ much, so that a mean of means is far from the mean."""
    draw = torch.Generator().manual_seed(4)
    return [(torch.randn(n, 5, generator=draw) + 0.5 * at, torch.full((n,), at % 4)) for at, n in enumerate(tokens)]


def true_gradient(tokens: list[int]) -> Tensor:
    net = copy.deepcopy(start()).double()
    data = micro_batches(tokens)
    x, y = torch.cat([x for x, _ in data]).double(), torch.cat([y for _, y in data])
    nn.functional.cross_entropy(net(x), y).backward()
    return net.weight.grad


def stepped(tokens: list[int], form: str, precision: str, *, fused: bool = True) -> Tensor:
    """The gradient of a step, read off the weights: plain SGD with LR 1."""
    net = start()
    before = net.weight.detach().double()
    optimizer = SGD(net.parameters(), lr=LR, fused=fused)
    # Gradients here are near 1: torch's 2**16 would overflow, rightly.
    guard = Guard(net, optimizer, precision=precision, on_unsupported="emulate", init_scale=2.0**10)
    for x, y in micro_batches(tokens):
        with guard.autocast():
            mean = nn.functional.cross_entropy(net(x), y)
            total = nn.functional.cross_entropy(net(x), y, reduction="sum")
        if form == "sum":
            guard.backward(LossSum(total, len(y)))
        elif form == "sum of a device count":
            guard.backward(LossSum(total, torch.tensor(len(y))))
        elif form == "weight":
            guard.backward(mean, weight=len(y))
        else:
            guard.backward(mean / len(tokens))
    assert guard.step()
    return before - net.weight.detach().double()


BOUNDS = {
    # Each gradient element is a sum of at most 1,114 terms (u = 2**-24); blocked summation errs by far less than
    # 1,114u = 6.6e-5 relative to the sum of magnitudes. The weights' own rounding adds u.
    "fp32": 1e-4,
    # Operands and results round to 11 bits (u = 2**-11 = 4.9e-4); three products in a row, each with a rounded sum.
    "fp16": 8 * 2.0**-11,
    # The same with 8 bits.
    "bf16": 8 * 2.0**-8,
}


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("form", ["sum", "sum of a device count", "weight"])
@pytest.mark.parametrize("tokens", TOKENS, ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_a_weighted_step_is_the_true_weighted_mean(tokens, form, precision, fused):
    truth = true_gradient(tokens)
    error = (stepped(tokens, form, precision, fused=fused) - truth).norm() / truth.norm()
    assert error < BOUNDS[precision]


def test_a_mean_of_means_is_far_from_it():
    """So the bounds above tell right from wrong."""
    truth = true_gradient(TOKENS[1])
    assert (stepped(TOKENS[1], "mean of means", "fp32") - truth).norm() / truth.norm() > 0.3


def test_the_reported_loss_is_the_true_weighted_mean():
    net, tokens = start(), TOKENS[1]
    guard = Guard(net, SGD(net.parameters(), lr=LR))
    data = micro_batches(tokens)
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    with torch.no_grad():
        truth = nn.functional.cross_entropy(net.double()(x.double()), y).item()
    net.float()
    for x, y in data:
        with guard.autocast():
            loss = nn.functional.cross_entropy(net(x), y, reduction="sum")
        guard.backward(LossSum(loss, len(y)))
    guard.step()
    assert guard.read().loss == pytest.approx(truth, rel=1e-5)  # 1,114 addends of one sign: 1,114u = 6.6e-5 at worst


@pytest.mark.parametrize("form", ["sum", "weight", "sum of a device count"])
def test_one_micro_batch_is_bitwise_torchs_mean(form):
    draw = torch.Generator().manual_seed(4)
    mine, hand = start(), start()
    optimizer = SGD(hand.parameters(), lr=0.1, fused=True)
    guard = Guard(mine, SGD(mine.parameters(), lr=0.1, fused=True))
    for _ in range(5):
        x, y = torch.randn(16, 5, generator=draw), torch.randint(0, 4, (16,), generator=draw)
        nn.functional.cross_entropy(hand(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        reduction = "mean" if form == "weight" else "sum"
        with guard.autocast():
            loss = nn.functional.cross_entropy(mine(x), y, reduction=reduction)
        if form == "weight":
            guard.backward(loss, weight=16)
        else:
            guard.backward(LossSum(loss, 16 if form == "sum" else torch.tensor(16)))
        guard.step()
        assert torch.equal(mine.weight, hand.weight)
