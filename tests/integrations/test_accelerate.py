"""GuardedAccelerator on the cases in which Accelerate goes wrong, and on a checkpoint of its own making.

The plain halves of M1, M5, M6 and M7 run in tests/peers/test_accelerate.py; where one is short it is repeated here.
"""

import copy
import logging
import subprocess
import sys

import pytest
import torch
import torch._dynamo
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import AutocastKwargs, GradScalerKwargs
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from ampguard import LossSum
from ampguard.errors import CollapseError, ConfigError, GradientError, PrecisionError
from ampguard.integrations.accelerate import GuardedAccelerator

EMULATE = {"on_unsupported": "emulate", "on_event": lambda event: None}
INIT_SCALE = 2.0**7
"""Small enough that no gradient of these tests overflows by itself."""
INF, ONES = torch.full((8, 4), float("inf")), torch.ones(8, 4)
ROUNDING = {"rtol": 8 * 2.0**-23, "atol": 2.0**-24}
"""A handful of float32 operations in another order."""


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its options in process-wide singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def accelerator(precision: str = "no", handlers=(), **kwargs) -> GuardedAccelerator:
    options = {**EMULATE, **kwargs.pop("guard_options", {})}
    handlers = handlers or [GradScalerKwargs(init_scale=INIT_SCALE)]
    return GuardedAccelerator(
        cpu=True, mixed_precision=precision, kwargs_handlers=list(handlers), guard_options=options, **kwargs
    )


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a, b) -> bool:
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_skip_is_counted_exactly_and_holds_weights_and_lr(precision, fused):
    guarded, model = accelerator(precision), linear()
    optimizer = AdamW(model.parameters(), lr=0.1, fused=fused)
    model, optimizer, scheduler = guarded.prepare(model, optimizer, StepLR(optimizer, 1, gamma=0.5))
    skipped = []
    for x in (INF, INF, ONES, ONES):
        before = weights(model)
        guarded.backward(model(x).square().mean())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        skipped.append(optimizer.step_was_skipped)
        assert same(before, weights(model)) is (x is INF)
    assert skipped == [True, True, False, False]
    assert guarded.optimizer_step_was_skipped is False
    assert scheduler.get_last_lr()[0] == pytest.approx(0.025)
    record = guarded.guard.read()
    assert (record.applied_steps, record.skipped_steps) == (2, 2)
    assert record.loss_scale == (INIT_SCALE / 4 if precision == "fp16" else None)
    assert guarded.scaler.get_scale() == (INIT_SCALE / 4 if precision == "fp16" else 1.0)


def test_a_fused_sgd_survives_a_skipped_first_step():
    guarded, model = accelerator("fp16"), linear()
    model, optimizer = guarded.prepare(model, SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))
    fill, torch.utils.deterministic.fill_uninitialized_memory = (
        torch.utils.deterministic.fill_uninitialized_memory,
        True,
    )
    torch.use_deterministic_algorithms(True)
    try:
        for x in (INF, ONES):
            guarded.backward(model(x).square().mean())
            optimizer.step()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_skipped_step_leaves_batch_norm_alone():
    guarded, model = accelerator(), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    model, optimizer = guarded.prepare(model, AdamW(model.parameters(), fused=True))
    guarded.backward(model(INF).square().mean())
    optimizer.step()
    assert optimizer.step_was_skipped
    assert torch.equal(model[0].running_mean, torch.zeros(4))
    assert model[0].num_batches_tracked == 0
    guarded.backward(model(torch.randn(8, 4)).square().mean())
    optimizer.step()
    assert model[0].num_batches_tracked == 1


def test_a_compiled_model_is_guarded_without_a_graph_break():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    guarded, model = accelerator(dynamo_backend="eager"), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    compiled, optimizer = guarded.prepare(model, AdamW(model.parameters(), fused=True))
    skipped = []
    for x in (INF, ONES):
        guarded.backward(compiled(x).square().mean())
        optimizer.step()
        skipped.append(optimizer.step_was_skipped)
    assert skipped == [True, False]
    assert model[0].num_batches_tracked == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def accumulated(make, group: int, samples: torch.Tensor, **backward) -> list[torch.Tensor]:
    """Return the weights after a pass in groups of `group` batches of one sample."""
    made, model = make(gradient_accumulation_steps=group), linear()
    loader = DataLoader(TensorDataset(samples), batch_size=1)
    model, optimizer, loader = made.prepare(model, SGD(model.parameters(), lr=0.1), loader)
    for (x,) in loader:
        with made.accumulate(model):
            made.backward(model(x).square().mean(), **backward)
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def by_hand(group: int, samples: torch.Tensor) -> list[torch.Tensor]:
    model = linear()
    optimizer = SGD(model.parameters(), lr=0.1)
    for part in samples.split(group):
        model(part).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_short_last_group_has_its_full_gradient_here_and_not_in_accelerate(precision):
    samples = torch.randn(5, 4)
    right = by_hand(4, samples)
    # fp16 computes with 10 bits of mantissa: two steps of size 0.1 of a gradient of a few units.
    tolerance = ROUNDING if precision == "no" else {"rtol": 0, "atol": 2.0**-9}
    ours = accumulated(lambda **k: accelerator(precision, **k), 4, samples)
    torch.testing.assert_close(ours, right, **tolerance)
    AcceleratorState._reset_state(reset_partial_state=True)
    plain = accumulated(lambda **k: Accelerator(cpu=True, **k), 4, samples)
    assert not torch.allclose(plain[0], right[0], rtol=1e-3), "Accelerate has fixed this: update docs/peers.md (M6)"


def test_full_groups_give_accelerates_weights():
    samples = torch.randn(8, 4)
    ours = accumulated(accelerator, 4, samples)
    AcceleratorState._reset_state(reset_partial_state=True)
    # A group of 4 is divided by a power of two, before or after the sum: bitwise the same.
    assert same(ours, accumulated(lambda **k: Accelerator(cpu=True, **k), 4, samples))


def test_micro_batches_count_by_their_weight():
    made, model = accelerator(gradient_accumulation_steps=2), linear()
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=0.1))
    samples = torch.randn(4, 4)
    for part in samples.split([3, 1]):
        with made.accumulate(model):
            made.backward(model(part).square().mean(), weight=len(part))
            optimizer.step()
    torch.testing.assert_close(weights(model), by_hand(4, samples), **ROUNDING)


def test_a_loss_sum_is_taken():
    made, model = accelerator(), linear()
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=0.1))
    loss = model(ONES).square()
    made.backward(LossSum(loss.sum(), loss.numel()))
    optimizer.step()
    assert made.guard.read().loss == pytest.approx(loss.mean().item())


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_clipping_sees_the_unscaled_gradients_and_returns_their_norm(precision, fused):
    made, model = accelerator(precision), linear()
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=1.0, fused=fused))
    before = weights(model)
    made.backward(model(4 * ONES).square().mean())
    norm = made.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    reference = linear()
    reference(4 * ONES).square().mean().backward()
    # fp16 has 10 bits of mantissa; the norm is a handful of its operations.
    right = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters()])
    torch.testing.assert_close(norm, right, rtol=2.0**-8 if precision == "fp16" else 2.0**-20, atol=0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(model), before, strict=True)])
    # SGD with lr 1 moves by the clipped gradient; 1e-6 is torch's own addend in the divisor.
    torch.testing.assert_close(moved.norm().item(), 0.5, rtol=1e-5, atol=0)


def test_clipping_a_non_finite_gradient_does_not_hide_it():
    made, model = accelerator(), linear()
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=1.0))
    before = weights(model)
    made.backward(model(INF).square().mean())
    made.clip_grad_value_(model.parameters(), 1.0)
    optimizer.step()
    assert optimizer.step_was_skipped
    assert same(before, weights(model))


def test_clipping_within_a_group_is_an_error_with_the_remedy():
    made, model = accelerator(gradient_accumulation_steps=2), linear()
    model, _ = made.prepare(model, SGD(model.parameters(), lr=1.0))
    with made.accumulate(model):
        made.backward(model(ONES).square().mean())
        with pytest.raises(ConfigError, match=r"if accelerator\.sync_gradients:"):
            made.clip_grad_norm_(model.parameters(), 1.0)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_forward_and_autocast_compute_in_the_granted_precision(precision, dtype):
    seen = []

    class Probe(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    made = accelerator(precision)
    model = made.prepare(Probe(4, 1))
    assert model(ONES).dtype == torch.float32
    assert seen == [dtype]
    with made.autocast():
        assert (ONES @ ONES.T).dtype == dtype
        with made.autocast(AutocastKwargs(enabled=False)):
            assert (ONES @ ONES.T).dtype == torch.float32


def test_fp16_on_a_cpu_falls_back_aloud(caplog):
    made = GuardedAccelerator(mixed_precision="fp16", cpu=True)
    assert (made.decision.requested, made.decision.granted) == ("fp16-mixed", "fp32")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "This run uses fp32 instead" in caplog.text
    model = linear()
    made.prepare(model, SGD(model.parameters(), lr=0.1))
    assert not made.scaler.is_enabled()


def test_fp16_on_a_cpu_can_be_an_error():
    with pytest.raises(PrecisionError, match="needs a GPU"):
        GuardedAccelerator(mixed_precision="fp16", cpu=True, guard_options={"on_unsupported": "error"})


def test_a_dropped_step_leaves_no_trace_in_the_next():
    """zero_grad after a backward drops the step: a count left behind would halve the next gradient."""
    made, model = accelerator(gradient_accumulation_steps=2), nn.Sequential(nn.BatchNorm1d(4), linear())
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=0.1))
    made.backward(model(torch.randn(8, 4)).square().mean())
    optimizer.zero_grad()
    assert model[0].num_batches_tracked == 0
    reference = copy.deepcopy(nn.Sequential(nn.BatchNorm1d(4), linear()))
    x = torch.randn(8, 4)
    reference(x).square().mean().backward()
    SGD(reference.parameters(), lr=0.1).step()
    made.backward(model(x).square().mean())
    optimizer.step()
    assert same(weights(model), weights(reference))


def test_zero_grad_between_forward_and_backward_keeps_the_statistics():
    made, model = accelerator(), nn.Sequential(nn.BatchNorm1d(4), linear())
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=0.1))
    loss = model(torch.randn(8, 4)).square().mean()
    optimizer.zero_grad()
    made.backward(loss)
    optimizer.step()
    assert model[0].num_batches_tracked == 1


class Recorder:
    """A tracker as Accelerate calls one."""

    name = "recorder"

    def __init__(self):
        self.rows = []

    def log(self, values, step=None, **kwargs):
        self.rows.append({"step": step, **values})


def test_log_adds_the_figures_for_every_tracker():
    made, model = accelerator("fp16"), linear()
    made.trackers = [Recorder()]
    made.log({"loss": 1.0}, step=0)
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=0.1))
    made.log({"loss": 1.0}, step=1)
    for x in (INF, ONES):
        made.backward(model(x).square().mean())
        optimizer.step()
    made.log({"loss": 1.0}, step=2)
    assert made.trackers[0].rows == [
        {"step": 0, "loss": 1.0},
        {"step": 1, "loss": 1.0},
        {
            "step": 2,
            "loss": 1.0,
            "amp/enabled": 1,
            "amp/loss_scale": INIT_SCALE / 2,
            "amp/applied_steps": 1,
            "amp/skipped_steps": 1,
            "amp/skip_streak": 0,
        },
    ]


def steps(made, model, optimizer, batches):
    for x in batches:
        made.backward(model(x).square().mean())
        optimizer.step()
        optimizer.zero_grad()


def test_a_saved_state_carries_the_guard(tmp_path):
    batches = [INF, *torch.randn(6, 8, 4)]

    def prepared():
        AcceleratorState._reset_state(reset_partial_state=True)
        made, model = accelerator("fp16", [GradScalerKwargs(growth_interval=2)]), linear()
        return made, *made.prepare(model, AdamW(model.parameters(), fused=True))

    whole = prepared()
    steps(*whole, batches)
    first = prepared()
    steps(*first, batches[:4])
    first[0].save_state(str(tmp_path))
    resumed = prepared()
    resumed[0].load_state(str(tmp_path))
    resumed[0].log({})
    steps(*resumed, batches[4:])
    assert same(weights(whole[1]), weights(resumed[1]))
    assert whole[0].guard.read() == resumed[0].guard.read()


def test_a_run_that_began_without_a_guard_goes_on_with_its_scale():
    made, model = accelerator("fp16"), linear()
    made.prepare(model, SGD(model.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    made.scaler.load_state_dict(scaler.state_dict())
    assert made.scaler.get_scale() == 8.0
    made.scaler.load_state_dict(torch.amp.GradScaler("cpu", enabled=False).state_dict())
    assert made.scaler.get_scale() == 8.0


def test_a_collapse_reaches_the_caller():
    made, model = accelerator(guard_options={"max_skip_streak": 2, "check_every": 1}), linear()
    model, optimizer = made.prepare(model, SGD(model.parameters(), lr=0.1))
    with pytest.raises(CollapseError):
        steps(made, model, optimizer, [INF] * 4)


def test_options_that_cannot_be_honoured_are_refused():
    with pytest.raises(ConfigError, match=r"enabled=False.*bf16"):
        accelerator("no", [GradScalerKwargs(enabled=False)])
    with pytest.raises(ConfigError, match="Give mixed_precision"):
        accelerator(guard_options={"precision": "bf16"})
    with pytest.raises(ConfigError, match="no option 'on_unsuported'"):
        accelerator(guard_options={"on_unsuported": "error"})


def test_what_is_not_prepared_is_named():
    made, model = accelerator(), linear()
    with pytest.raises(ConfigError, match=r"prepare\(model, optimizer\)"):
        made.backward(model(ONES).sum())
    optimizer = made.prepare(SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="no prepared model has the optimizer's parameters"):
        made.backward(model(ONES).sum())
    with pytest.raises(ConfigError, match="one GuardedAccelerator for each"):
        made.prepare(SGD(linear().parameters(), lr=0.1))
    made.prepare(model)
    with pytest.raises(GradientError):
        optimizer.step()


def test_a_copy_of_the_model_trains_by_itself():
    made, model = accelerator(), linear()
    model, _ = made.prepare(model, SGD(model.parameters(), lr=0.1))
    made.backward(model(ONES).sum())
    twin = copy.deepcopy(model)
    twin(ONES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_two_accelerators_train_two_models():
    """The way of a GAN: each model and optimizer with an accelerator of its own."""
    pairs = []
    for _ in range(2):
        made, model = accelerator("fp16"), linear()
        pairs.append((made, *made.prepare(model, SGD(model.parameters(), lr=0.1))))
    (one, first, first_optimizer), (two, second, second_optimizer) = pairs
    steps(one, first, first_optimizer, [INF])
    steps(two, second, second_optimizer, [ONES])
    assert (one.guard.read().skipped_steps, two.guard.read().skipped_steps) == (1, 0)


TWO_RANKS = """
import os
import torch
from torch import nn
from ampguard.integrations.accelerate import GuardedAccelerator

made = GuardedAccelerator(cpu=True, guard_options={"on_event": lambda event: None})
torch.manual_seed(0)
model = nn.Linear(4, 1)
model, optimizer = made.prepare(model, torch.optim.AdamW(model.parameters(), fused=True))
skipped = []
for step in range(2):
    bad = step == 0 and made.process_index == 0
    made.backward(model(torch.full((2, 4), float("inf") if bad else 1.0)).square().mean())
    optimizer.step()
    skipped.append(optimizer.step_was_skipped)
assert made.num_processes == 2
assert skipped == [True, False], skipped
assert all(p.isfinite().all() for p in model.parameters())
made.end_training()
# Gloo's threads abort the interpreter's own end now and then, with Accelerate itself as well (torch 2.13).
os._exit(0)
"""


def test_two_ranks_skip_together(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(TWO_RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_plain_checkpoint_without_a_scaler_is_taken_over_aloud(tmp_path, caplog):
    torch.manual_seed(0)
    plain = Accelerator(cpu=True)
    model = nn.Linear(4, 1)
    model, optimizer = plain.prepare(model, AdamW(model.parameters(), lr=0.1))
    plain.backward(model(torch.ones(2, 4)).sum())
    optimizer.step()
    plain.save_state(str(tmp_path / "state"))
    expected = model.weight.detach().clone()

    accelerator = GuardedAccelerator(cpu=True)
    model = nn.Linear(4, 1)
    model, optimizer = accelerator.prepare(model, AdamW(model.parameters(), lr=0.1))
    accelerator.load_state(str(tmp_path / "state"))
    assert torch.equal(model.weight, expected)
    assert "has no scaler.pt" in caplog.text
    accelerator.backward(model(torch.ones(2, 4)).sum())
    optimizer.step()
    assert accelerator.guard.read().applied_steps == 1
