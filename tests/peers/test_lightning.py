"""Lightning itself, and ours on the same case: the facts M2, M3 and M6 of docs/peers.md.

Lightning's `16-mixed` runs on a CPU through its own plugin, handed in with a device and a scaler for it.
"""

import logging

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from ampguard import Guard, LossSum

FIXED = "Lightning has fixed this: update docs/peers.md ({})"
INF, ONES = torch.full((8, 4), float("inf")), torch.ones(8, 4)
BATCHES = [INF, INF, ONES, ONES]
"""Two batches overflow, two are applied."""
INIT_SCALE = 2.0**10
MAX_NORM = 0.01
FP16 = {"precision": "fp16", "on_unsupported": "emulate", "init_scale": INIT_SCALE, "on_event": lambda event: None}

pytestmark = [
    # What Lightning says about its own innards and about this small a run is not what is tested here.
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # torch sees the fact M2 itself, where the first step of all is skipped and the optimizer is not fused.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
]


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


class Regression(lightning.LightningModule):
    """A line through zero; keeps its weights after each batch."""

    def __init__(self, make_optimizer):
        super().__init__()
        self.model = linear()
        self.make_optimizer = make_optimizer
        self.weights: list[Tensor] = []

    def training_step(self, batch, index):
        return self.model(batch[0]).float().square().mean()

    def on_train_batch_end(self, *args):
        self.weights.append(self.model.weight.detach().clone())

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        schedule = {"scheduler": StepLR(optimizer, 1, gamma=0.5), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule} if isinstance(optimizer, AdamW) else optimizer


def half_on_cpu() -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=INIT_SCALE)
    return MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)


def fit(module: Regression, data: Tensor, *, batch_size: int, **options) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(TensorDataset(data), batch_size=batch_size))
    return trainer


def adamw(*, fused: bool):
    return lambda params: AdamW(params, lr=0.1, fused=fused)


def guarded(guard: Guard, model: nn.Module, x: Tensor) -> Tensor:
    with guard.autocast():
        loss = model(x).float().square().mean()
    guard.backward(loss)
    return guard.step()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_a_skipped_step_holds_the_lr_in_ours_and_not_in_lightning(fused):
    module, plugin = Regression(adamw(fused=fused)), half_on_cpu()
    trainer = fit(module, torch.cat(BATCHES), batch_size=8, plugins=plugin)
    assert plugin.scaler.get_scale() == INIT_SCALE / 4
    assert torch.equal(module.weights[1], linear().weight)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 2**4), FIXED.format("M2")
    assert trainer.global_step == 4, FIXED.format("M2")

    model = linear()
    optimizer = AdamW(model.parameters(), lr=torch.tensor(0.1) if fused else 0.1, fused=fused)
    guard = Guard(model, optimizer, schedule=lambda o: StepLR(o, 1, gamma=0.5), **FP16)
    for x in BATCHES:
        guarded(guard, model, x)
    record = guard.read()
    assert (record.step, record.applied_steps, record.skipped_steps) == (4, 2, 2)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1 / 2**2)


def test_fused_and_clipped_fp16_works_in_ours_and_in_torch_and_is_refused_by_lightning():
    module = Regression(adamw(fused=True))
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fit(module, torch.cat(BATCHES), batch_size=8, plugins=half_on_cpu(), gradient_clip_val=MAX_NORM)
        pytest.fail(FIXED.format("M3"))

    stock = linear()
    optimizer, scaler = sgd(stock, fused=True), torch.amp.GradScaler("cpu", init_scale=INIT_SCALE)
    for x in BATCHES:
        with torch.autocast("cpu", torch.float16):
            loss = stock(x).float().square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(stock.parameters(), MAX_NORM)
        scaler.step(optimizer)
        scaler.update()

    model = linear()
    guard = Guard(model, sgd(model, fused=True), max_grad_norm=MAX_NORM, **FP16)
    for x in BATCHES:
        guarded(guard, model, x)
    assert guard.fused
    # Each of two applied steps is LR 1 times a clipped gradient, made by four roundings instead of two or three.
    torch.testing.assert_close(model.weight, stock.weight, rtol=2 * 4 * 2.0**-23, atol=0)
    moved = torch.cat([(model.weight - linear().weight).flatten(), model.bias - linear().bias]).norm()
    torch.testing.assert_close(moved, torch.tensor(2 * MAX_NORM), rtol=1e-3, atol=0)


def sgd(model: nn.Module, *, fused: bool) -> Optimizer:
    return SGD(model.parameters(), lr=1.0, fused=fused)


GROUP = 4
SAMPLES = 5
"""Batches of one sample: a group of four and a short last one."""


def test_a_short_last_group_has_its_full_gradient_in_ours_and_a_quarter_in_lightning():
    torch.manual_seed(1)
    data = torch.randn(SAMPLES, 4)
    right, first = linear(), None
    for group in data.split(GROUP):
        right(group).square().mean().backward()
        with torch.no_grad():
            for p in right.parameters():
                p.sub_(0.1 * p.grad)
                p.grad = None
        first = right.weight.detach().clone() if first is None else first

    module = Regression(lambda params: SGD(params, lr=0.1))
    fit(module, data, batch_size=1, accumulate_grad_batches=GROUP)
    torch.testing.assert_close(module.weights[GROUP - 1], first, rtol=1e-5, atol=1e-6)
    full, taken = right.weight - first, module.weights[-1] - module.weights[GROUP - 1]
    torch.testing.assert_close(taken, full / GROUP, rtol=1e-3, atol=1e-6, msg=FIXED.format("M6"))

    model = linear()
    guard = Guard(model, SGD(model.parameters(), lr=0.1), precision="fp32")
    for group in data.split(GROUP):
        for x in group.split(1):
            with guard.autocast():
                total = model(x).square().sum()
            guard.backward(LossSum(total, len(x)))
        guard.step()
    # Sums of up to 4 float32 terms in another order.
    torch.testing.assert_close(model.weight, right.weight, rtol=4 * 2.0**-23, atol=2.0**-24)
