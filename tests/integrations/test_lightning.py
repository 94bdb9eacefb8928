"""Claims about the Lightning door, each on Lightning's own Trainer and beside what the plain library does.

Lightning's own half of the facts M2, M3 and M6 is in tests/peers/test_lightning.py; M5 is shown here.
"""

import csv
import logging
import subprocess
import sys

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from ampguard.errors import CollapseError, ConfigError, PrecisionError
from ampguard.integrations.lightning import GuardCallback, GuardPrecision

INIT_SCALE = 2.0**10
EMULATED = {"on_unsupported": "emulate", "init_scale": INIT_SCALE, "on_event": lambda event: None}
PACKAGES = [lightning.pytorch, pytorch_lightning]
SAMPLES = 8

pytestmark = [
    # What Lightning says about its own innards and about this small a run is not what is tested here.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*val_dataloader"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec."),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    # torch sees the fact M2 itself, where the first step of all is skipped and the optimizer is not fused.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
]


def batches(*kinds: float) -> Tensor:
    """Return one sample a batch; inf overflows, a number is repeated."""
    return torch.stack([torch.full((4,), kind) for kind in kinds])


OVERFLOWS = batches(float("inf"), float("inf"), 1.0, 0.5)
"""Two batches overflow, two are applied."""


class Line:
    """A line; keeps its weights after each batch, and what hooks saw. Mixed into either package's LightningModule."""

    def __init__(self, *, norm: bool = False, optimizer=AdamW, fused: bool = False, lr: float = 0.1, scheduled=True):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.recipe = (optimizer, fused, lr, scheduled)
        self.weights: list[Tensor] = []

    def training_step(self, batch, batch_idx):
        return self.line(self.norm(batch[0])).float().square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_dtype_bits", float(self.line(batch[0]).element_size() * 8))

    def on_train_batch_end(self, *args):
        self.weights.append(self.line.weight.detach().clone())

    def configure_optimizers(self):
        make, fused, lr, scheduled = self.recipe
        optimizer = make(self.parameters(), lr=lr, fused=fused)
        scheduler = {"scheduler": StepLR(optimizer, 1, gamma=0.5), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler} if scheduled else optimizer


def module(package=lightning.pytorch, mixin=Line, **options):
    return type("LitLine", (mixin, package.LightningModule), {})(**options)


def fit(model, data=OVERFLOWS, *, package=lightning.pytorch, batch_size=1, val=None, ckpt_path=None, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "max_epochs": 1, "log_every_n_steps": 1}
    trainer = package.Trainer(
        accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False, **{**quiet, **options}
    )
    loaders = [DataLoader(TensorDataset(x), batch_size=batch_size) for x in (data, val) if x is not None]
    trainer.fit(model, *loaders, ckpt_path=ckpt_path)
    return trainer


def guarded(**options) -> GuardPrecision:
    return GuardPrecision("16-mixed", **EMULATED, **options)


def half_on_cpu(package=lightning.pytorch, **options):
    scaler = torch.amp.GradScaler("cpu", **{"init_scale": INIT_SCALE, **options})
    return package.plugins.MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)


def lr_of(trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_a_skipped_step_moves_neither_weights_nor_lr_and_is_counted(fused):
    model, start = module(fused=fused), module().line.weight.detach()
    trainer = fit(model, plugins=guarded())
    assert torch.equal(model.weights[1], start)
    assert not torch.equal(model.weights[2], start)
    assert lr_of(trainer) == pytest.approx(0.1 / 2**2)
    record = trainer.precision_plugin.guard.read()
    assert (trainer.global_step, record.applied_steps, record.skipped_steps) == (4, 2, 2)
    assert (trainer.precision, record.loss_scale) == ("16-mixed", INIT_SCALE / 4)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_skipped_step_leaves_batch_norm_alone_in_ours_and_not_in_lightning(package):
    data = torch.cat([torch.full((2, 4), float("inf")), torch.randn(2, 4)])
    theirs = module(package, norm=True)
    fit(theirs, data, package=package, batch_size=2, plugins=half_on_cpu(package))
    assert not theirs.norm.running_mean.isfinite().all(), "Lightning has fixed this: update docs/peers.md (M5)"

    ours = module(package, norm=True)
    callback = GuardCallback(**EMULATED)
    trainer = fit(ours, data, package=package, batch_size=2, plugins=half_on_cpu(package), callbacks=[callback])
    assert isinstance(trainer.precision_plugin, package.plugins.Precision)
    assert ours.norm.running_mean.isfinite().all()
    assert ours.norm.num_batches_tracked == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_a_loss_scale_a_non_finite_step_is_skipped_in_ours_and_applied_by_lightning(precision):
    theirs, ours = module(), module()
    fit(theirs, precision=precision)
    assert not theirs.line.weight.isfinite().any(), "Lightning has fixed this: update docs/peers.md (M11)"
    trainer = fit(ours, precision=precision, callbacks=[GuardCallback(on_event=lambda event: None)])
    assert ours.line.weight.isfinite().all()
    assert lr_of(trainer) == pytest.approx(0.1 / 2**2)
    assert trainer.precision_plugin.guard.read().skipped_steps == 2


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_fused_fp16_clips_unscaled_gradients(algorithm):
    model = module(optimizer=SGD, fused=True, lr=1.0, scheduled=False)
    before = module().line.weight.detach()
    fit(model, batches(1.0), plugins=guarded(), gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
    moved = torch.cat([(model.line.weight - before).flatten(), model.line.bias - module().line.bias])
    limit = moved.norm() if algorithm == "norm" else moved.abs().max()
    # A weight of size 1 moves by a hundredth of it: float32 rounds the difference at 2**-24 / 0.01.
    torch.testing.assert_close(limit, torch.tensor(0.01), rtol=1e-4, atol=0)


def test_fp32_is_lightnings_own_bit_for_bit():
    data = torch.randn(SAMPLES, 4)
    ours, theirs = module(), module()
    fit(ours, data, batch_size=2, callbacks=[GuardCallback()], gradient_clip_val=1e6)
    fit(theirs, data, batch_size=2)
    assert all(map(torch.equal, ours.weights, theirs.weights))


GROUP = 4


@pytest.mark.parametrize("group", [GROUP, 3], ids=["power of two", "three"])
def test_a_short_last_group_has_its_full_gradient(group):
    data = torch.randn(group + 1, 4)
    model = module(optimizer=SGD, scheduled=False)
    fit(model, data, plugins=GuardPrecision("fp32"), accumulate_grad_batches=group)
    right = module()
    for part in data.split(group):
        torch.stack([right.line(x[None]).square().mean() for x in part]).mean().backward()
        with torch.no_grad():
            for p in right.line.parameters():
                p.sub_(0.1 * p.grad)
                p.grad = None
    # Sums of at most 4 float32 terms in another order.
    torch.testing.assert_close(model.line.weight, right.line.weight, rtol=4 * 2.0**-23, atol=2.0**-24)


class Watching(Line):
    def on_before_optimizer_step(self, optimizer):
        self.seen = self.line.weight.grad.clone()


def test_hooks_before_the_step_see_unscaled_gradients():
    seen = []
    hook = LambdaCallback(on_before_optimizer_step=lambda trainer, module, _: seen.append(module.line.bias.grad.item()))
    model = module(mixin=Watching, fused=True)
    expected = module()
    expected.training_step((batches(1.0),), 0).backward()
    fit(model, batches(1.0), plugins=guarded(), callbacks=[hook])
    half = 2.0**-11
    torch.testing.assert_close(model.seen, expected.line.weight.grad, rtol=4 * half, atol=0)
    torch.testing.assert_close(seen[0], expected.line.bias.grad.item(), rtol=4 * half, atol=0)


class Clipping(Line):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")


def test_a_module_that_clips_by_itself_is_asked():
    model = module(mixin=Clipping, optimizer=SGD, lr=1.0, scheduled=False)
    before = module()
    fit(model, batches(1.0), plugins=guarded())
    moved = torch.cat([(model.line.weight - before.line.weight).flatten(), model.line.bias - before.line.bias])
    torch.testing.assert_close(moved.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)


class Sparing(Line):
    """Has no loss for a batch of zeros."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch[0].any() else None


def test_a_step_without_a_loss_is_no_step_and_holds_the_lr():
    model = module(mixin=Sparing)
    trainer = fit(model, batches(1.0, 0.0, 1.0), plugins=GuardPrecision("fp32"))
    assert trainer.precision_plugin.guard.read().step == 2
    assert torch.equal(model.weights[0], model.weights[1])
    assert lr_of(trainer) == pytest.approx(0.1 / 2**2)


def test_a_group_takes_the_mean_of_the_losses_that_it_has():
    model, right = module(mixin=Sparing, optimizer=SGD, scheduled=False), module(optimizer=SGD, scheduled=False)
    fit(model, batches(1.0, 0.0, 0.0), plugins=GuardPrecision("fp32"), accumulate_grad_batches=3)
    fit(right, batches(1.0), plugins=GuardPrecision("fp32"))
    torch.testing.assert_close(model.line.weight, right.line.weight, rtol=2 * 2.0**-23, atol=2.0**-24)


def test_a_checkpoint_carries_the_guard(tmp_path):
    model = module(fused=True)
    trainer = fit(model, OVERFLOWS[:3], plugins=guarded())
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    resumed = fit(module(fused=True), OVERFLOWS, plugins=guarded(), ckpt_path=tmp_path / "three.ckpt", max_epochs=2)
    record = resumed.precision_plugin.guard.read()
    assert (record.step, record.applied_steps, record.skipped_steps) == (7, 3, 4)
    assert record.loss_scale == INIT_SCALE / 2**4
    assert lr_of(resumed) == pytest.approx(0.1 / 2**3)
    with pytest.raises(Exception, match="the state is of a fp16-mixed run and this Guard is fp32"):
        fit(module(), plugins=GuardPrecision("32-true"), ckpt_path=tmp_path / "three.ckpt", max_epochs=2)


@pytest.mark.parametrize(
    ("precision", "granted", "theirs", "bits"),
    [
        ("bf16", "bf16-mixed", "bf16-mixed", 16),
        ("bf16-true", "bf16-true", "bf16-true", 16),
        (32, "fp32", "32-true", 32),
        ("auto", "fp32", "32-true", 32),
        ("16-mixed", "fp16-mixed", "16-mixed", 16),
    ],
)
def test_every_precision_trains_and_validates_in_it(precision, granted, theirs, bits):
    model = module()
    plugin = GuardPrecision(precision, **EMULATED)
    trainer = fit(model, batches(1.0), val=batches(1.0), plugins=plugin)
    assert (plugin.guard.decision.granted, trainer.precision) == (granted, theirs)
    assert trainer.callback_metrics["val_dtype_bits"] == bits
    assert plugin.guard.read().applied_steps == 1
    assert model.line.weight.element_size() * 8 == (16 if precision == "bf16-true" else 32)
    trainer.validate(model, DataLoader(TensorDataset(batches(1.0))), verbose=False)


class Reads(TorchDispatchMode):
    """Counts what asks the device for a number."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


class Counting(GuardPrecision):
    """Counts over all that Lightning does in a batch's step: forward, backward, clipping, hooks."""

    def optimizer_step(self, *args, **kwargs):
        with Reads() as reads:
            result = super().optimizer_step(*args, **kwargs)
        self.reads = reads.count
        return result


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_step_asks_the_device_for_nothing(fused):
    plugin = Counting("16-mixed", **EMULATED)
    fit(
        module(norm=True, fused=fused, scheduled=False),
        torch.ones(4, 4),
        batch_size=2,
        plugins=plugin,
        gradient_clip_val=1.0,
    )
    assert bool(plugin.reads) is not fused


def test_validation_alone_is_in_the_plugins_precision():
    model, plugin = module(), GuardPrecision("bf16-true", on_unsupported="emulate")
    trainer = lightning.pytorch.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, plugins=plugin
    )
    trainer.validate(model, DataLoader(TensorDataset(batches(1.0))), verbose=False)
    assert model.line.weight.dtype == torch.bfloat16
    assert trainer.callback_metrics["val_dtype_bits"] == 16
    assert plugin.guard is None


def test_float64_weights_stay_so_in_lightnings_32_true():
    model = module().double()
    fit(model, batches(1.0).double(), val=batches(1.0).double(), callbacks=[GuardCallback()])
    assert model.line.weight.dtype == torch.float64


def rows_of(folder) -> list[dict[str, float]]:
    (file,) = folder.rglob("metrics.csv")
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file.read_text().splitlines())]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_callback_logs_exact_counts_at_the_trainers_own_interval(package, tmp_path):
    logger = package.loggers.CSVLogger(tmp_path)
    trainer = fit(
        module(package, fused=True),
        package=package,
        plugins=half_on_cpu(package),
        callbacks=[GuardCallback(on_unsupported="emulate"), package.callbacks.LearningRateMonitor()],
        logger=logger,
        log_every_n_steps=2,
    )
    rows = [row for row in rows_of(tmp_path) if "amp/enabled" in row]
    assert [row["amp/skipped_steps"] for row in rows] == [2, 2]
    assert [row["amp/applied_steps"] for row in rows] == [0, 2]
    assert [row["amp/loss_scale"] for row in rows] == [INIT_SCALE / 2, INIT_SCALE / 4]
    assert all(key.startswith("amp/") for row in rows for key in row.keys() - {"epoch", "step"})
    assert trainer.callback_metrics["amp/skip_streak"] == 0


class Told(Line):
    def log_dict(self, dictionary, **kwargs):
        self.weights.append(dictionary)
        super().log_dict(dictionary, **kwargs)


def test_the_device_is_read_once_for_each_step_that_is_logged():
    model, callback = module(mixin=Told), GuardCallback()
    options = {"callbacks": [callback], "accumulate_grad_batches": 2, "log_every_n_steps": 2, "max_epochs": 2}
    fit(model, torch.ones(7, 4), **options)
    told = [row["amp/applied_steps"] for row in model.weights if isinstance(row, dict)]
    assert told == [2, 4, 6, 8]
    again = module(mixin=Told)
    fit(again, torch.ones(7, 4), **options)
    assert len([row for row in again.weights if isinstance(row, dict)]) == 4


def test_the_callback_keeps_the_law_of_lightnings_own_scaler():
    trainer = fit(module(), plugins=half_on_cpu(growth_interval=1), callbacks=[GuardCallback(on_unsupported="emulate")])
    assert isinstance(trainer.precision_plugin, GuardPrecision)
    # Two overflows halve it twice, one applied step doubles it before the last one is taken.
    assert trainer.precision_plugin.guard.read().loss_scale == INIT_SCALE / 2


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1e10])
def test_a_scaler_at_any_scale_is_observed_as_it_is_and_guarded_from_a_scale_in_range(scale):
    plugin = half_on_cpu(init_scale=scale)
    plugin.scaler.update = lambda: None
    trainer = fit(module(), batches(1.0), plugins=plugin, callbacks=[GuardCallback(guard=False)])
    assert trainer.precision_plugin is plugin
    assert trainer.callback_metrics["amp/loss_scale"] == torch.tensor(scale)
    guard = fit(
        module(),
        batches(1.0),
        plugins=half_on_cpu(init_scale=scale),
        callbacks=[GuardCallback(on_unsupported="emulate")],
    ).precision_plugin.guard
    assert guard.config.init_scale == {0.0: 1.0, 1e-10: 1.0, 1e10: 2.0**24}[scale]


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "32-true", "64-true"])
@pytest.mark.parametrize("scaler", [None, "absent", "disabled"])
def test_without_a_scaler_the_observer_logs_what_is_known(precision, scaler):
    callback = GuardCallback(guard=False)
    trainer = fit(module(), batches(1.0), callbacks=[callback])
    plugin = trainer.precision_plugin
    plugin.precision = precision
    if scaler != "absent":
        plugin.scaler = scaler and torch.amp.GradScaler("cpu", enabled=False)
    figures = callback._figures(trainer)
    assert "amp/loss_scale" not in figures
    enabled = {"32-true": {"amp/enabled": 0}, "64-true": {}}.get(precision, {"amp/enabled": 1})
    assert figures == enabled


def test_events_of_the_last_steps_are_told_without_a_callback():
    events = []
    plugin = GuardPrecision("16-mixed", on_unsupported="emulate", init_scale=INIT_SCALE, on_event=events.append)
    fit(module(), plugins=plugin)
    assert [event.step for event in events if event.kind == "skip"] == [1, 2]


def test_a_collapse_stops_the_fit():
    with pytest.raises(CollapseError, match="3 steps in a row were skipped"):
        fit(module(), batches(*[float("nan")] * 4), plugins=GuardPrecision("fp32", max_skip_streak=2, check_every=3))


class Manual(Line):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self):
        return [SGD(self.parameters(), lr=0.1), SGD(self.parameters(), lr=0.1)]


class OwnBackward(Line):
    def backward(self, loss):
        loss.backward()


class SecondOrder(Line):
    def configure_optimizers(self):
        return LBFGS(self.parameters())


@pytest.mark.parametrize(
    ("mixin", "said"),
    [
        (Manual, r"LitLine optimizes manually.*ampguard\.Guard\(self, optimizer\)"),
        (OwnBackward, "LitLine has a backward of its own"),
        (SecondOrder, "LBFGS calls the closure itself"),
    ],
)
def test_what_cannot_be_guarded_is_refused_with_the_remedy_and_can_be_observed(mixin, said):
    with pytest.raises(ConfigError, match=said):
        fit(module(mixin=mixin), callbacks=[GuardCallback()])
    fit(module(mixin=mixin), batches(1.0), callbacks=[GuardCallback(guard=False)])


def test_two_clippings_and_unknown_precisions_are_refused():
    with pytest.raises(ConfigError, match=r"gradient_clip_val=1.0 and the guard's max_grad_norm=2.0"):
        fit(module(), plugins=GuardPrecision("fp32", max_grad_norm=2.0), gradient_clip_val=1.0)
    with pytest.raises(PrecisionError, match="64-true"):
        fit(module(), precision="64-true", callbacks=[GuardCallback()])
    with pytest.raises(PrecisionError, match="fp16 weights lose"):
        GuardPrecision("16-true")


def test_a_guard_option_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no option 'grow_interval'"):
        fit(module(), callbacks=[GuardCallback(grow_interval=3)])


def test_without_lightning_the_door_says_what_to_install():
    code = (
        "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "from ampguard.errors import MissingExtraError\n"
        "try: import ampguard.integrations.lightning\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "ampguard[lightning]"' in done.stdout
