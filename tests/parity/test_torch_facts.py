"""Where stock torch goes wrong, and ours on the same case: the facts M4, M5, M8, M9 and M10 of docs/peers.md.

Each test has two halves. The first shows the fact with torch itself, so that the day torch changes the test says so;
the second shows that ours is right. Everything runs on a CPU, in emulated fp16 where scaling is needed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils._python_dispatch import TorchDispatchMode

from ampguard.engine import Action, Guard
from ampguard.errors import CollapseError

FIXED = "torch has fixed this: update docs/peers.md ({})"
FP16 = {"precision": "fp16-mixed", "on_unsupported": "emulate"}
STEPS_TO_ZERO = 166
"""65536 = 2**16 halves past float32's smallest subnormal, 2**-149, in 16 + 149 + 1 steps."""


def inf_batch() -> Tensor:
    return torch.full((8, 4), float("inf"))


def normed_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def stock_step(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, x: Tensor) -> None:
    with torch.autocast("cpu", torch.float16):
        loss = model(x).float().square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def guarded_step(model: nn.Module, guard: Guard, x: Tensor) -> Tensor:
    with guard.autocast():
        loss = model(x).float().square().mean()
    guard.backward(loss)
    return guard.step()


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# M4: torch.amp.GradScaler has no floor.


def test_a_run_of_overflows_takes_torchs_scale_to_zero_and_ours_to_its_floor():
    model = nn.Linear(4, 1)
    optimizer, scaler = AdamW(model.parameters(), fused=True), torch.amp.GradScaler("cpu")
    for _ in range(STEPS_TO_ZERO):
        stock_step(model, optimizer, scaler, inf_batch())
    assert scaler.get_scale() == 0.0, FIXED.format("M4")

    model = nn.Linear(4, 1)
    optimizer = AdamW(model.parameters(), fused=True)
    guard = Guard(model, optimizer, on_collapse=lambda collapse: Action.CONTINUE, on_event=lambda event: None, **FP16)
    before = weights_of(model)
    for _ in range(STEPS_TO_ZERO):
        guarded_step(model, guard, inf_batch())
    assert guard.read().loss_scale == guard.config.min_scale == 1.0
    assert equal(weights_of(model), before)
    assert guarded_step(model, guard, torch.ones(8, 4))


def test_a_run_of_overflows_stops_with_an_error_by_default():
    model = nn.Linear(4, 1)
    guard = Guard(model, AdamW(model.parameters(), fused=True), on_event=lambda event: None, **FP16)
    with pytest.raises(CollapseError, match="at the floor"):
        for _ in range(STEPS_TO_ZERO):
            guarded_step(model, guard, inf_batch())
    assert guard.attempted == guard.config.check_every


# M5: a correctly skipped overflow poisons BatchNorm.

TOO_LARGE = 1e5
"""Finite in float32 and inf in float16, whose largest value is 65504."""


def normalised_image() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def overflowing(model: nn.Sequential) -> Tensor:
    """Return a batch of ordinary numbers; a weight of the first Linear makes its fp16 output overflow."""
    with torch.no_grad():
        model[1].bias.fill_(TOO_LARGE)
    return torch.randn(8, 4)


def test_a_skipped_step_poisons_batch_norm_in_torch_and_not_in_ours():
    model = normalised_image()
    x, scaler = overflowing(model), torch.amp.GradScaler("cpu")
    before = weights_of(model)
    stock_step(model, AdamW(model.parameters(), fused=True), scaler, x)
    assert equal(weights_of(model), before)
    assert scaler.get_scale() == 2.0**15
    assert not model[2].running_mean.isfinite().all(), FIXED.format("M5")
    assert model.eval()(torch.randn(8, 4)).isnan().all(), FIXED.format("M5")

    model = normalised_image()
    x = overflowing(model)
    guard = Guard(model, AdamW(model.parameters(), fused=True), on_event=lambda event: None, **FP16)
    before = weights_of(model) + [buffer.clone() for buffer in model.buffers()]
    assert not guarded_step(model, guard, x)
    assert equal(weights_of(model) + list(model.buffers()), before)
    assert model.eval()(torch.randn(8, 4)).isfinite().all()


# M8: a fused SGD whose first step is skipped reads an uninitialised momentum buffer.


@contextmanager
def uninitialised_memory_is_nan() -> Iterator[None]:
    """Let torch fill `empty` with NaN, so that reading it shows every time and not by chance."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def momentum_sgd(model: nn.Module, *, fused: bool) -> SGD:
    return SGD(model.parameters(), lr=0.01, momentum=0.9, fused=fused)


def small_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def after_a_skipped_first_step(*, fused: bool) -> nn.Linear:
    model, scaler = small_model(), torch.amp.GradScaler("cpu")
    optimizer = momentum_sgd(model, fused=fused)
    for x in (inf_batch(), torch.ones(8, 4), torch.ones(8, 4)):
        stock_step(model, optimizer, scaler, x)
    return model


def test_fused_momentum_survives_a_skipped_first_step_in_ours_and_not_in_torch():
    with uninitialised_memory_is_nan():
        assert after_a_skipped_first_step(fused=True).weight.isnan().all(), FIXED.format("M8")
        model = small_model()
        guard = Guard(model, momentum_sgd(model, fused=True), on_event=lambda event: None, **FP16)
        applied = [guarded_step(model, guard, x).item() for x in (inf_batch(), torch.ones(8, 4), torch.ones(8, 4))]
        assert guard.fused
        assert applied == [False, True, True]
        right = after_a_skipped_first_step(fused=False)
    # Unfused torch multiplies by 1 / scale and the fused kernel divides by it: with powers of two the same float32.
    # The two kernels may add in another order (one with a fused multiply-add): one rounding a step, two steps.
    torch.testing.assert_close(model.weight, right.weight, rtol=2 * 2.0**-23, atol=0)


# M9: fused kernels test for found_inf == 1; indexing with a tensor synchronises.

ODD = [2.0, 0.5, math.nan]


@pytest.mark.parametrize("kind", [AdamW, SGD])
@pytest.mark.parametrize("found_inf", ODD)
def test_torchs_fused_kernels_apply_a_step_whose_found_inf_is_not_exactly_one(kind, found_inf):
    weight = nn.Parameter(torch.ones(4))
    optimizer = kind([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(4)
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, torch.ones(4))
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()
    assert not torch.equal(weight, torch.ones(4)), FIXED.format("M9")


@pytest.mark.parametrize("agreed", [1.0, *ODD])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_ours_skips_and_hands_over_exactly_one_whatever_the_ranks_agree_on(agreed, fused):
    model = small_model()
    optimizer, seen = AdamW(model.parameters(), fused=fused), []
    optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.found_inf.clone()) if fused else None)
    agree = torch.full((), agreed)
    guard = Guard(model, optimizer, agree=lambda own: agree, on_event=lambda event: None, **FP16)
    before = weights_of(model)
    assert not guarded_step(model, guard, torch.ones(8, 4))
    assert equal(weights_of(model), before)
    assert guard.read().skipped_steps == 1
    assert guard.state_dict()["scale"]["scale"] == 2.0**15
    assert all(value.dtype is torch.float32 and value.shape == () and value == 1.0 for value in seen)
    assert len(seen) == fused


class Reads(TorchDispatchMode):
    """Counts the operations that copy a value to the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_indexing_by_a_tensor_reads_it_in_torch_and_our_schedule_reads_nothing():
    table, index = torch.arange(4.0), torch.tensor([2])
    with Reads() as reads:
        table.index_select(0, index)
    assert reads.count == 0
    with Reads() as reads:
        table[index[0]]
    assert reads.count == 1, FIXED.format("M9")

    model = small_model()
    optimizer = AdamW(model.parameters(), lr=torch.tensor(0.1), fused=True)
    guard = Guard(model, optimizer, schedule=lambda o: StepLR(o, 1, gamma=0.5), init_scale=2.0**10, **FP16)
    with Reads() as reads:
        for x in (torch.ones(8, 4), inf_batch(), torch.ones(8, 4)):
            guarded_step(model, guard, x)
    assert reads.count == 0
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.025)


# M10: a buffer's version does not tell that BatchNorm changed it, and arithmetic does not undo inf.


def test_batch_norm_changes_its_statistics_without_a_trace_in_torch_and_ours_undoes_them():
    norm = nn.BatchNorm1d(4).train()
    version, before = norm.running_mean._version, norm.running_mean.clone()
    norm(torch.randn(8, 4) + 3)
    assert not torch.equal(norm.running_mean, before)
    assert norm.running_mean._version == version, FIXED.format("M10")

    model = normed_model()
    guard = Guard(model, AdamW(model.parameters(), fused=True), precision="fp32", on_event=lambda event: None)
    guarded_step(model, guard, torch.randn(8, 4))
    before = [buffer.clone() for buffer in model.buffers()]
    assert not guarded_step(model, guard, inf_batch())
    assert equal(list(model.buffers()), before)


def test_only_where_puts_a_finite_value_back_over_inf():
    saved, poisoned, applied = torch.ones(3), torch.tensor([math.inf, -math.inf, math.nan]), torch.tensor(False)
    mixed = poisoned * applied + saved * ~applied
    assert mixed.isnan().any(), FIXED.format("M10")
    assert torch.lerp(saved, poisoned, applied.float()).isnan().any(), FIXED.format("M10")
    assert torch.equal(torch.where(applied, poisoned, saved), saved)
