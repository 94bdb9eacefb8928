"""Claims about Task.from_lightning: what it makes of a module is what Lightning's own Trainer makes of it."""

import logging
import subprocess
import sys

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torchmetrics
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ampguard import Guard, Task
from ampguard.engine import GuardConfig
from ampguard.errors import ConfigError, LossError, TaskError
from ampguard.training.evaluate import evaluate

PACKAGES = [lightning.pytorch, pytorch_lightning]
STEPS_PER_EPOCH, BATCH = 3, 4
LR = 0.1

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec."),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
    pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using"),
    # The module's own scheduler is made at its optimizer, which then takes no step of Lightning's.
    pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning"),
]


class Samples(IterableDataset):
    """In order, whoever reads: so that two loops see the same batches."""

    def __init__(self, length: int):
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(length, 4, generator=generator), torch.arange(length) % 3

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


class Sized(Samples):
    def __len__(self):
        return len(self.x)


class Classifier:
    """Three classes from four numbers. Mixed into either package's LightningModule."""

    def __init__(self, width: int = 3, recipe=None):
        super().__init__()
        self.net = nn.Linear(4, width)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.recipe = recipe or (lambda module: SGD(module.parameters(), lr=LR))
        self.lrs = []

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({"twice": 2 * loss})
        return {"loss": loss, "extra": 1}

    def validation_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        self.accuracy(logits, batch[1])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]), True)
        self.log_dict({"val/Accuracy-1": self.accuracy, "valid_logit": logits.mean()})
        self.log("weighted", logits.max(), batch_size=7 - 6 * batch_idx)

    def configure_optimizers(self):
        return self.recipe(self)

    def train_dataloader(self):
        return DataLoader(Sized(STEPS_PER_EPOCH * BATCH), batch_size=BATCH)

    def val_dataloader(self):
        return DataLoader(Sized(2 * BATCH - 1), batch_size=BATCH)


class LitClassifier(Classifier, lightning.pytorch.LightningModule):
    pass


class Recording(lightning.pytorch.Callback):
    """Keeps the LR of each group that a step is taken with."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        module.lrs.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def trainer_of(package=lightning.pytorch, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return package.Trainer(accelerator="cpu", devices=1, enable_model_summary=False, **quiet, **options)


def train(task: Task, *, epochs: int = 2, lr: float | None = None, poison: int | None = None, **options):
    """Train with the public Guard, and return the model and the LRs of each step."""
    torch.manual_seed(0)
    model = task.model()
    optimizer = task.optimizer(model, lr or task.defaults["lr"])
    guard = Guard(model, optimizer, GuardConfig(precision="fp32", schedule=task.schedule, **options))
    lrs = []
    for index, batch in enumerate(batch for _ in range(epochs) for batch in task.train_data):
        lrs.append([float(group["lr"]) for group in optimizer.param_groups])
        with guard.autocast():
            loss = task.loss(model, batch)
        guard.backward(loss * float("nan") if index == poison else loss)
        guard.step()
    return model, lrs


def stepped(scheduler, **entry):
    return {"scheduler": scheduler, "interval": "step", **entry}


def two_groups(module):
    (weight, bias) = module.net.parameters()
    return AdamW([{"params": [weight]}, {"params": [bias], "lr": LR / 10}], lr=LR)


def warmed_up(module):
    optimizer = two_groups(module)
    schedulers = [LinearLR(optimizer, 0.25, total_iters=2), CosineAnnealingLR(optimizer, T_max=4, eta_min=0.001)]
    return {"optimizer": optimizer, "lr_scheduler": stepped(SequentialLR(optimizer, schedulers, milestones=[2]))}


def both_intervals(module):
    optimizer = SGD(module.parameters(), lr=LR)
    each_step = stepped(LambdaLR(optimizer, lambda step: module.net.out_features / (3 + step)))
    return [optimizer], [each_step, {"scheduler": ConstantLR(optimizer, 0.5, total_iters=1), "interval": "epoch"}]


def one_cycle(module, **options):
    optimizer = SGD(module.parameters(), lr=1e-5, momentum=0.9)
    return [optimizer], [stepped(OneCycleLR(optimizer, LR, total_steps=6, **options))]


RECIPES = {
    "optimizer": two_groups,
    "list": lambda module: [SGD(module.parameters(), lr=LR)],
    "dict": lambda module: {"optimizer": two_groups(module)},
    "dicts": lambda module: (warmed_up(module),),
    "warm-up": warmed_up,
    "each epoch": lambda module: (lambda o: ([o], [StepLR(o, 1, gamma=0.5)]))(two_groups(module)),
    "every other": lambda module: (lambda o: ([o], [stepped(StepLR(o, 1, gamma=0.5), frequency=3)]))(
        two_groups(module)
    ),
    "one cycle": lambda module: one_cycle(module, cycle_momentum=False),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_guard_takes_lightnings_own_steps_bit_for_bit(recipe):
    torch.manual_seed(0)
    theirs = LitClassifier(recipe=recipe)
    trainer_of(max_epochs=2, limit_val_batches=0, callbacks=[Recording()]).fit(theirs)
    ours, lrs = train(Task.from_lightning(LitClassifier, recipe=recipe))
    assert theirs.lrs == lrs
    assert torch.equal(ours.net.weight, theirs.net.weight)


def test_schedulers_of_both_intervals_go_on_together():
    task = Task.from_lightning(LitClassifier, recipe=both_intervals)
    _, lrs = train(task)
    theirs = LitClassifier(recipe=both_intervals)
    trainer_of(max_epochs=2, limit_val_batches=0, callbacks=[Recording()]).fit(theirs)
    assert theirs.lrs == lrs


def test_the_lr_scales_every_group_and_the_whole_schedule():
    task = Task.from_lightning(LitClassifier, recipe=warmed_up)
    assert task.defaults["lr"] == LR
    _, lrs = train(task)
    _, doubled = train(task, lr=2 * LR)
    assert doubled == [pytest.approx([2 * lr for lr in row], rel=1e-15) for row in lrs]
    peak = Task.from_lightning(LitClassifier, recipe=RECIPES["one cycle"]).defaults["lr"]
    assert peak == LR


def test_a_skipped_step_holds_the_modules_schedule():
    task = Task.from_lightning(LitClassifier, recipe=warmed_up)
    _, lrs = train(task)
    _, held = train(task, poison=1, on_event=lambda event: None)
    assert held == [*lrs[:2], lrs[1], *lrs[2:-1]]


def test_a_schedule_that_cycles_momentum_is_refused_by_name():
    with pytest.raises(ConfigError, match="also changes betas or momentum"):
        train(Task.from_lightning(LitClassifier, recipe=one_cycle))


def test_what_cannot_be_scheduled_is_left_out_with_a_warning(caplog):
    def plateau(module):
        optimizer = SGD(module.parameters(), lr=LR)
        return {"optimizer": optimizer, "lr_scheduler": ReduceLROnPlateau(optimizer), "monitor": "val_loss"}

    task = Task.from_lightning(LitClassifier, recipe=plateau)
    assert (task.schedule, task.defaults["schedule"], task.defaults["warmup_steps"]) == (None, "constant", 0)
    assert "ReduceLROnPlateau is left out: it needs a metric. Use --schedule plateau." in caplog.text

    class Endless(LitClassifier):
        def train_dataloader(self):
            return DataLoader(Samples(8), batch_size=BATCH)

    assert Task.from_lightning(Endless, recipe=RECIPES["each epoch"]).schedule is None
    assert "StepLR is left out: it steps at each epoch, and the training data has no length." in caplog.text
    assert Task.from_lightning(Endless, recipe=warmed_up).schedule is not None


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_metrics_are_lightnings_own(package):
    lit = type("LitClassifier", (Classifier, package.LightningModule), {})
    task = Task.from_lightning(lit)
    model = task.model()
    found = evaluate(task, model, task.val_data, device=torch.device("cpu"), autocast=torch.inference_mode())
    trainer = trainer_of(package)
    (theirs,) = trainer.validate(model, verbose=False)
    names = {"loss": "val_loss", "accuracy_1": "val/Accuracy-1", "logit": "valid_logit", "weighted": "weighted"}
    assert set(found) == {f"val/{name}" for name in names}
    for ours, name in names.items():
        # Sums of 7 float32 terms in another order.
        assert found[f"val/{ours}"] == pytest.approx(theirs[name], rel=7 * 2.0**-23)


def test_a_returned_loss_is_a_metric_and_other_reductions_are_left_out_with_one_warning(caplog):
    class Returning(LitClassifier):
        def validation_step(self, batch):
            self.log("val_worst", batch[0].max(), reduce_fx="max")
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    task = Task.from_lightning(Returning)
    model = task.model()
    sums = [task.evaluate(model, batch) for batch in task.val_data]
    assert [set(part) for part in sums] == [{"loss"}, {"loss"}]
    assert [part["loss"].count for part in sums] == [BATCH, BATCH - 1]
    assert caplog.text.count("val_worst is logged with reduce_fx='max' and is left out") == 1


def test_logging_leaves_nothing_behind():
    task = Task.from_lightning(LitClassifier)
    model = task.model()
    before = set(vars(model))
    batch = next(iter(task.train_data))
    task.loss(model, batch)
    task.evaluate(model, batch)
    assert set(vars(model)) == before
    with pytest.raises(TypeError, match="not subscriptable"):
        task.evaluate(model, None)
    assert "log" not in vars(model)


class Data(lightning.pytorch.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(stage)

    def train_dataloader(self):
        return [DataLoader(TensorDataset(torch.ones(6, 4), torch.zeros(6, dtype=torch.long)), batch_size=2)]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append(("after", torch.is_autocast_enabled("cpu"), dataloader_idx))
        return batch[0] * 2, batch[1]


def test_a_datamodule_gives_the_data_and_its_transfer_hooks():
    class Moving(LitClassifier):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + 1, batch[1]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            raise AssertionError("the data module's own goes before it")

        def training_step(self, batch, batch_idx):
            self.seen = (batch[0], batch_idx)
            return super().training_step(batch, batch_idx)

    data = Data()
    task = Task.from_lightning(Moving, data)
    assert data.calls == ["prepare_data", "fit"]
    assert (task.val_data, task.evaluate) == (None, None)
    assert task.info == {"lightning": [Moving.__qualname__, "Data"]}
    model = task.model()
    with torch.autocast("cpu", torch.bfloat16):
        for batch in task.train_data:
            task.loss(model, batch)
    assert data.calls[2:] == [("after", False, 0)] * 3
    assert torch.equal(model.seen[0], torch.full((2, 4), 4.0))
    assert model.seen[1] == 2
    assert task.defaults["batch_size"] == 2
    assert Task.from_lightning(LitClassifier, Data).defaults["batch_size"] == 2


def test_each_model_is_fresh_and_drawn_from_the_global_generator():
    class SetUp(LitClassifier):
        def setup(self, stage):
            self.stage = stage

        def configure_model(self):
            self.head = nn.Linear(1, 1)

    task = Task.from_lightning(SetUp, width=5)
    torch.manual_seed(3)
    first, second = task.model(), task.model()
    torch.manual_seed(3)
    assert torch.equal(first.net.weight, task.model().net.weight)
    assert not torch.equal(first.net.weight, second.net.weight)
    assert (first.net.out_features, first.stage, type(first.head)) == (5, "fit", nn.Linear)
    assert (task.name, task.defaults["batch_size"], task.defaults["max_grad_norm"]) == ("set_up", BATCH, 0.0)


def test_an_instance_is_copied_without_its_trainer():
    module = LitClassifier()
    trainer_of(max_steps=1, limit_val_batches=0).fit(module)
    model = Task.from_lightning(module).model()
    assert torch.equal(model.net.weight, module.net.weight)
    assert model.net.weight is not module.net.weight
    assert (model._trainer, module._trainer is None) == (None, False)
    assert Task.from_lightning(lambda: LitClassifier(width=4)).model().net.out_features == 4


def overriding(base=LitClassifier, **members):
    return type("Odd", (base,), members)


def asks_trainer(self):
    optimizer = SGD(self.parameters(), lr=LR)
    return [optimizer], [CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)]


def nothing(self, *args):
    return None


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (overriding(automatic_optimization=False), r"Odd optimizes manually.*one ampguard\.Guard for each"),
        (overriding(backward=nothing), "Odd has a backward of its own"),
        (overriding(optimizer_step=nothing), "Odd has a optimizer_step of its own.*LR scheduler"),
        (overriding(configure_gradient_clipping=nothing), "Clip with --max-grad-norm"),
        (overriding(transfer_batch_to_device=nothing), "tensors in dicts, lists, tuples and dataclasses are moved"),
        (overriding(configure_optimizers=nothing), "Odd.configure_optimizers gives no optimizer"),
        (overriding(configure_optimizers=asks_trainer), "asks its Trainer, and a Task has none.*--schedule"),
        (
            overriding(recipe=None, configure_optimizers=lambda self: [SGD(self.parameters())] * 2),
            "returns 2 optimizers",
        ),
        (overriding(train_dataloader=lambda self: {"a": [], "b": []}), "train_dataloader returns several loaders"),
        (type("Bare", (lightning.pytorch.LightningModule,), {}), "Bare has no training_step"),
        (
            type("Bare", (lightning.pytorch.LightningModule,), {"training_step": nothing}),
            r"Bare has no train_dataloader\..*--task\.datamodule NAME",
        ),
        (lambda: nn.Linear(1, 1), "it makes a Linear, not a LightningModule"),
        (3, "the module is a int"),
    ],
)
def test_what_a_task_cannot_do_is_refused_with_the_remedy(module, said):
    with pytest.raises(TaskError, match=said):
        Task.from_lightning(module)


def test_wrong_arguments_are_named():
    with pytest.raises(TaskError, match="the datamodule is a list"):
        Task.from_lightning(LitClassifier, [1])
    with pytest.raises(TaskError, match="options width came too late"):
        Task.from_lightning(LitClassifier(), width=3)


def test_hooks_that_are_not_called_are_listed(caplog):
    Task.from_lightning(overriding(on_train_epoch_end=nothing, on_validation_epoch_end=nothing))
    assert "these hooks are not called: on_train_epoch_end, on_validation_epoch_end." in caplog.text
    caplog.clear()
    Task.from_lightning(LitClassifier)
    assert not caplog.text


@pytest.mark.parametrize("returned", [None, {"no": 1}])
def test_a_step_without_a_loss_is_an_error(returned):
    task = Task.from_lightning(overriding(training_step=lambda self, batch: returned))
    with pytest.raises(LossError, match=r"training_step returned .*Return a scalar tensor"):
        task.loss(task.model(), next(iter(task.train_data)))


def test_without_lightning_the_door_says_what_to_install():
    code = (
        "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "from ampguard import Task\nfrom ampguard.errors import MissingExtraError\n"
        "try: Task.from_lightning(object)\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "ampguard[lightning]"' in done.stdout
