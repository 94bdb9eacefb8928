"""Accelerate itself, and ours on the same case: the facts M1, M5, M6 and M7 of docs/peers.md.

Accelerate makes a loss scaler on GPUs only. Where a test needs one on a CPU it is torch's own, put where Accelerate
keeps its own before `prepare`; the code under test is Accelerate's from there on.
"""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from ampguard import Guard

FIXED = "Accelerate has fixed this: update docs/peers.md ({})"
INF, ONES = torch.full((8, 4), float("inf")), torch.ones(8, 4)
BATCHES = [INF, INF, ONES, ONES]
"""Two batches overflow, two are applied."""
APPLIED_LR = 0.025
"""0.1 halved once for each of the two applied steps."""


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its options in process-wide singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def scaled_accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return accelerator


def accelerated(*, fused: bool) -> tuple[list[bool], float, float]:
    """Return what a run over BATCHES tells: (step_was_skipped of each step, final LR, final loss scale)."""
    accelerator, model = scaled_accelerator(), linear()
    optimizer = AdamW(model.parameters(), lr=0.1, fused=fused)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, StepLR(optimizer, 1, gamma=0.5))
    skipped = []
    for x in BATCHES:
        before = [p.detach().clone() for p in model.parameters()]
        accelerator.backward(model(x).square().mean())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        skipped.append(optimizer.step_was_skipped)
        unchanged = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert unchanged is (x is INF)
    return skipped, scheduler.get_last_lr()[0], accelerator.scaler.get_scale()


def test_fused_skips_are_seen_by_ours_and_not_by_accelerate():
    assert accelerated(fused=False) == ([True, True, False, False], pytest.approx(APPLIED_LR), 2.0**8)
    skipped, lr, scale = accelerated(fused=True)
    assert scale == 2.0**8
    assert skipped == [False] * 4, FIXED.format("M1")
    assert lr == pytest.approx(0.00625), FIXED.format("M1")

    model = linear()
    optimizer = AdamW(model.parameters(), lr=torch.tensor(0.1), fused=True)
    guard = Guard(
        model,
        optimizer,
        precision="fp16",
        on_unsupported="emulate",
        init_scale=2.0**10,
        schedule=lambda o: StepLR(o, 1, gamma=0.5),
        on_event=lambda event: None,
    )
    applied = []
    for x in BATCHES:
        with guard.autocast():
            loss = model(x).float().square().mean()
        guard.backward(loss)
        applied.append(guard.step())
    assert guard.fused
    assert [step.item() for step in applied] == [False, False, True, True]
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(APPLIED_LR)
    assert guard.read().loss_scale == 2.0**8


def test_a_skipped_step_leaves_batch_norm_alone_in_ours_and_not_in_accelerate():
    accelerator, model = scaled_accelerator(), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    model, optimizer = accelerator.prepare(model, AdamW(model.parameters(), fused=False))
    accelerator.backward(model(INF).square().mean())
    optimizer.step()
    assert optimizer.step_was_skipped
    assert not model[0].running_mean.isfinite().all(), FIXED.format("M5")

    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    guard = Guard(model, AdamW(model.parameters(), fused=True), precision="fp32")
    with guard.autocast():
        loss = model(INF).square().mean()
    guard.backward(loss)
    assert not guard.step()
    assert torch.equal(model[0].running_mean, torch.zeros(4))
    assert model[0].num_batches_tracked == 0


GROUP = 4
SAMPLES = 5
"""Batches of one sample: a group of four and a short last one."""


def samples() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(SAMPLES, 4)


def plain_steps() -> Tensor:
    """Return the weights of the right loop: each step is the mean of its own samples."""
    model = linear()
    optimizer = SGD(model.parameters(), lr=0.1)
    for group in samples().split(GROUP):
        model(group).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.weight.detach()


def last_update(after: Tensor, before: Tensor) -> float:
    return (after - before).norm().item()


def accelerated_groups() -> list[Tensor]:
    """Return the weights after each optimizer step of Accelerate's loop."""
    accelerator, model = Accelerator(cpu=True, gradient_accumulation_steps=GROUP), linear()
    loader = DataLoader(TensorDataset(samples()), batch_size=1)
    model, optimizer, loader = accelerator.prepare(model, SGD(model.parameters(), lr=0.1), loader)
    weights = []
    for (x,) in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(x).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients:
                weights.append(model.weight.detach().clone())
    return weights


def test_a_short_last_group_has_its_full_gradient_in_ours_and_a_quarter_in_accelerate():
    right = plain_steps()
    first, last = accelerated_groups()
    torch.testing.assert_close(last_update(last, first), last_update(right, first) / GROUP, rtol=1e-5, atol=0)
    assert not torch.allclose(last, right, rtol=1e-4), FIXED.format("M6")

    model = linear()
    guard = Guard(model, SGD(model.parameters(), lr=0.1), precision="fp32")
    for group in samples().split(GROUP):
        for x in group.split(1):
            with guard.autocast():
                loss = model(x).square().mean()
            guard.backward(loss, weight=len(x))
        guard.step()
    # Sums of up to 4 float32 terms in another order.
    torch.testing.assert_close(model.weight.detach(), right, rtol=4 * 2.0**-23, atol=2.0**-24)


def test_fp16_on_a_cpu_is_refused_aloud_by_ours_and_silently_float32_in_accelerate(recwarn, caplog):
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    model = accelerator.prepare(linear())
    with accelerator.autocast():
        dtype = model(ONES).dtype
    assert accelerator.mixed_precision == "fp16"
    assert (accelerator.native_amp, accelerator.scaler, dtype) == (False, None, torch.float32), FIXED.format("M7")
    assert not recwarn.list, FIXED.format("M7")
    assert not caplog.records, FIXED.format("M7")

    model = linear()
    guard = Guard(model, AdamW(model.parameters(), fused=True), precision="fp16")
    assert (guard.decision.requested, guard.decision.granted) == ("fp16-mixed", "fp32")
    assert guard.decision.reason == "fallback: fp16-mixed needs a GPU with fp16 matrix units"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "This run uses fp32 instead" in caplog.text
