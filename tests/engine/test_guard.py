"""The Guard as a caller meets it: gradients, state, interruption, sparse and frozen parameters."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingLR

from ampguard import LossSum
from ampguard.engine import Guard
from ampguard.errors import CheckpointError, ConfigError, GradientError, LossError

PRECISIONS = ("fp32", "bf16", "fp16")


def make(precision: str = "fp32", *, fused: bool = True, **options) -> tuple[nn.Module, AdamW, Guard]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = AdamW(net.parameters(), lr=0.01, fused=fused)
    more = {"on_unsupported": "emulate", "init_scale": 1024.0, "growth_interval": 3, "on_event": lambda event: None}
    return net, optimizer, Guard(net, optimizer, precision=precision, **{**more, **options})


def forward(net: nn.Module, guard: Guard, seed: int, *, bad: bool = False) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 4, generator=draw) * (torch.inf if bad else 1.0)
    with guard.autocast():
        loss = net(x).pow(2).sum()
    guard.backward(LossSum(loss, 6))


def attempt(net: nn.Module, guard: Guard, seed: int, *, bad: bool = False) -> torch.Tensor:
    forward(net, guard, seed, bad=bad)
    return guard.step()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_step_returns_whether_it_was_applied(precision):
    net, _, guard = make(precision)
    for bad in (False, True):
        applied = attempt(net, guard, 1, bad=bad)
        assert applied.dtype == torch.bool and applied.shape == () and bool(applied) != bad


def test_the_next_forward_frees_the_gradients_of_a_finished_step():
    net, _, guard = make("fp32")
    attempt(net, guard, 1)
    with guard.autocast():
        assert all(param.grad is None for param in net.parameters())


def test_without_autocast_the_next_backward_frees_them():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1), torch.ones(2, 3)
    guard = Guard(net, SGD(net.parameters(), lr=0.0))
    for _ in range(3):
        guard.backward(net(x).sum())
        assert torch.equal(net.weight.grad, torch.full((1, 3), 2.0))
        guard.step()


def test_a_second_step_without_a_backward_is_refused():
    net, _, guard = make("fp32")
    attempt(net, guard, 1)
    with pytest.raises(GradientError, match="no parameter has a gradient"):
        guard.step()


def test_rewind_frees_the_gradients_of_the_step_under_way():
    net, _, guard = make("fp32")
    forward(net, guard, 1)
    guard.rewind()
    assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("max_norm", [None, 0.1])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_unscale_shows_true_gradients_and_changes_no_step(precision, max_norm, fused):
    (net, _, guard), (other, _, plain) = (make(precision, fused=fused, max_grad_norm=max_norm) for _ in range(2))
    for seed in range(3):
        forward(net, guard, seed, bad=seed == 1)
        guard.unscale_()
        guard.unscale_()
        if seed != 1:
            true = torch.autograd.grad(twin_loss(net, seed), net[2].weight)[0]
            error = (net[2].weight.grad.double() - true).norm() / true.norm()
            assert error < {"fp32": 1e-5, "fp16": 8 * 2**-11, "bf16": 8 * 2**-8}[precision]
        guard.step()
        attempt(other, plain, seed, bad=seed == 1)
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            # One rounding more or less of the gradient, u = 2**-24; Adam's step is at most lr = 0.01 in size.
            torch.testing.assert_close(a, b, rtol=0, atol=0 if max_norm is None else 16 * 2**-24)
        other.load_state_dict(net.state_dict())


def twin_loss(net: nn.Module, seed: int) -> torch.Tensor:
    """The loss in float64 as a function of the last weight, of the same batch."""
    twin = copy.deepcopy(net).double()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double()
    hidden = twin[1](twin[0](x)).detach()
    return nn.functional.linear(hidden, net[2].weight.double(), net[2].bias.double()).pow(2).sum() / 6


def test_gradients_may_be_changed_after_unscale():
    net, _, guard = make("fp16")
    forward(net, guard, 0)
    guard.unscale_()
    frozen = net[0].weight.detach().clone()
    net[0].weight.grad = None
    guard.step()
    assert torch.equal(net[0].weight, frozen)


def test_a_gradient_that_was_not_finite_at_unscale_skips_whatever_becomes_of_it():
    net, _, guard = make("fp16")
    forward(net, guard, 0, bad=True)
    guard.unscale_()
    for param in net.parameters():
        param.grad.zero_()
    assert not guard.step()
    assert attempt(net, guard, 1)


def test_backward_after_unscale_is_refused():
    net, _, guard = make()
    forward(net, guard, 0)
    guard.unscale_()
    with pytest.raises(LossError, match="after unscale_"):
        forward(net, guard, 1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(precision, fused):
    options = {"ema": 0.9, "schedule": lambda o: CosineAnnealingLR(o, T_max=20), "max_grad_norm": 1.0, "fused": fused}
    net, optimizer, guard = make(precision, **options)
    for seed in range(5):
        attempt(net, guard, seed, bad=seed in (0, 4))
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict(), guard.state_dict()], file)
    file.seek(0)
    model_state, optimizer_state, guard_state = torch.load(file, weights_only=True)
    other, other_optimizer, resumed = make(precision, **options)
    other.load_state_dict(model_state)
    other_optimizer.load_state_dict(optimizer_state)
    resumed.load_state_dict(guard_state)
    for seed in range(5, 12):
        for each, its in ((net, guard), (other, resumed)):
            attempt(each, its, seed, bad=seed in (5, 9))
        assert guard.read() == resumed.read()
        for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    left, right = guard.state_dict(), resumed.state_dict()
    averages = (left.pop("ema"), right.pop("ema"))
    assert left == right
    assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[0])


def test_a_state_of_another_precision_or_schema_is_refused():
    state = make("bf16")[2].state_dict()
    with pytest.raises(CheckpointError, match="of a bf16-mixed run and this Guard is fp32"):
        make("fp32")[2].load_state_dict(state)
    with pytest.raises(CheckpointError, match="schema 7"):
        make("bf16")[2].load_state_dict({**state, "schema": 7})


def test_rewind_drops_a_group_that_is_under_way():
    net, optimizer, guard = make()
    attempt(net, guard, 0)
    before = copy.deepcopy(net.state_dict())
    forward(net, guard, 1)
    forward(net, guard, 2, bad=True)
    guard.rewind()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(param.grad is None for param in net.parameters()) and guard.attempted == 1
    assert attempt(net, guard, 3)
    assert optimizer.state[net[0].weight]["step"] == 2


@pytest.mark.parametrize("fused", [True, False])
def test_a_parameter_that_is_unfrozen_later_is_guarded_as_well(fused):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    guard = Guard(net, SGD(net.parameters(), lr=0.1, momentum=0.9, fused=fused), on_event=lambda event: None)
    attempt(net, guard, 0)
    net[0].requires_grad_(True)
    before = copy.deepcopy(net.state_dict())
    forward(net, guard, 1)
    net[0].weight.grad[0, 0] = torch.nan
    assert not guard.step()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert attempt(net, guard, 2)
    assert not torch.equal(net[0].weight, before["0.weight"]) and torch.isfinite(net[0].weight).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sparse_gradients_are_measured_unscaled_and_skipped(precision):
    torch.manual_seed(0)
    table, dense = nn.Embedding(6, 3, sparse=True), nn.Linear(3, 2)
    net = nn.Sequential(table, dense)
    pair = [SparseAdam(list(table.parameters()), lr=0.1), SGD(dense.parameters(), lr=0.1, fused=True)]
    hand = copy.deepcopy(net)
    hand_pair = [SparseAdam(list(hand[0].parameters()), lr=0.1), SGD(hand[1].parameters(), lr=0.1)]
    options = {"on_unsupported": "emulate", "init_scale": 2.0**10, "on_event": lambda event: None}
    guard = Guard(net, pair, precision=precision, **options)
    assert not guard.fused
    for step in range(4):
        words = torch.tensor([[1, 1], [2, step]])
        with guard.autocast():
            loss = net(words).pow(2).mean() * (torch.inf if step == 1 else 1.0)
        guard.backward(loss)
        assert bool(guard.step()) == (step != 1)
        if step != 1:
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=precision == "fp16")
            with torch.autocast("cpu", dtype=torch.float16, enabled=precision == "fp16"):
                loss = hand(words).pow(2).mean()
            scaler.scale(loss).backward()
            for optimizer in hand_pair:
                scaler.step(optimizer)
                optimizer.zero_grad()
        for ours, theirs in zip(net.parameters(), hand.parameters(), strict=True):
            # Ours scales by 2**10 or 2**9, theirs by 2**8: powers of two, and no gradient near fp16's subnormals.
            assert torch.equal(ours, theirs)


def test_a_large_idle_buffer_is_listed_after_the_first_read():
    net, _, _ = make()
    net.register_buffer("table", torch.zeros(2**18 + 1))
    guard = Guard(net, SGD(net.parameters(), lr=0.1), on_event=lambda event: None)
    attempt(net, guard, 0)
    assert guard.unprotected_buffers == ()
    guard.read()
    assert guard.unprotected_buffers == ("table",)


def test_ranks_agree_through_the_function_handed_in():
    net, optimizer, _ = make()
    other_ranks = iter([0.0, 1.0, 0.0])
    guard = Guard(net, optimizer, agree=lambda mine: mine.clamp(min=next(other_ranks)), on_event=lambda event: None)
    applied = [bool(attempt(net, guard, seed, bad=seed == 2)) for seed in range(3)]
    assert applied == [True, False, False]


def test_backward_hands_its_options_to_autograd():
    net, _, guard = make()
    with guard.autocast():
        loss = net(torch.randn(6, 4)).sum()
    guard.backward(loss, inputs=[net[2].bias], retain_graph=True)
    assert net[0].weight.grad is None
    guard.backward(loss)
    assert net[2].bias.grad.eq(12).all()


def test_a_validation_between_steps_does_not_disturb_what_is_undone():
    net, _, guard = make()
    attempt(net, guard, 0)
    net.eval()
    with torch.no_grad(), guard.autocast():
        net(torch.randn(6, 4))
    net.train()
    before = copy.deepcopy(net.state_dict())
    assert not attempt(net, guard, 1, bad=True)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscale", [True, False])
def test_a_step_over_no_elements_is_skipped_and_the_next_is_exact(fused, unscale):
    def steps(counts):
        net, _, guard = make(fused=fused)
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        for count in counts:
            with guard.autocast():
                total = net(x).pow(2).sum() * (count > 0)
            guard.backward(LossSum(total, torch.tensor(count)))
            if unscale:
                guard.unscale_()
            guard.step()
        return net, guard.read()

    net, record = steps([0, 6, 0, 6])
    other, _ = steps([6, 6])
    assert (record.applied_steps, record.skipped_steps) == (2, 2)
    mine, theirs = net.state_dict(), other.state_dict()
    # A bias before BatchNorm has a gradient of nothing but rounding, which AdamW blows up.
    for name in mine.keys() - {"0.bias", "1.running_mean"}:
        # c_ref is 1 in one run and 6 in the other: two steps, each of some roundings more.
        torch.testing.assert_close(mine[name], theirs[name], rtol=2**-18, atol=2**-20)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_norm_of_record_is_that_of_the_gradients_before_the_caller_clipped_them(precision):
    norms = []
    for clips in (False, True):
        net, _, guard = make(precision)
        forward(net, guard, 1)
        if clips:
            guard.unscale_()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        guard.step()
        norms.append(guard.read().grad_norm)
    assert norms[1] > 0.2
    assert norms[1] == pytest.approx(norms[0], rel=2**-20)


def test_gradients_stay_readable_through_a_validation():
    net, _, guard = make()
    attempt(net, guard, 1)
    with torch.no_grad(), guard.autocast():
        net.eval()(torch.ones(2, 4))
    assert all(p.grad is not None for p in net.parameters())
    with guard.autocast():
        net.train()(torch.ones(2, 4))
    assert all(p.grad is None for p in net.parameters())


def test_a_group_that_is_added_later_is_an_error_and_not_unguarded():
    net, optimizer, guard = make()
    attempt(net, guard, 1)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(ConfigError, match="parameter group was added"):
        attempt(net, guard, 2)
