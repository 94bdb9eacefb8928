"""Claims about the command line's way to what people have: a LightningModule in a file is a Task."""

import sys
from pathlib import Path
from typing import Literal, get_args

import pytest

from ampguard import train
from ampguard.errors import TaskError
from ampguard.tasks import find_task
from ampguard.tasks.doors import is_a

LIT = """
import {package} as L
import torch
from torch.utils.data import DataLoader, TensorDataset

MADE = []

class LitModel(L.LightningModule):
    def __init__(self, width: int = 2, lr: float = 0.5):
        super().__init__()
        MADE.append(width)
        self.net = torch.nn.Linear(4, width)
        self.lr = lr

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

def make(width: int = 3):
    return LitModel(width)
"""

DATA = """
class {name}(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(8, 4)), batch_size={batch_size})

    val_dataloader = train_dataloader
"""


def written(folder, *datamodules: str, package: str = "lightning"):
    path = folder / "lit.py"
    data = [DATA.format(name=name, batch_size=2 + index) for index, name in enumerate(datamodules)]
    path.write_text("".join([LIT.format(package=package), *data]))
    return path


@pytest.mark.parametrize("package", ["lightning", "lightning.pytorch", "pytorch_lightning"])
def test_a_lightning_module_and_the_only_data_module_of_its_file_train(tmp_path, package):
    builder = find_task(f"{written(tmp_path, 'Data', package=package)}:LitModel")
    assert list(builder.options) == ["width", "lr", "datamodule"]
    assert get_args(builder.options["datamodule"].annotation) == ("Data",)
    task = builder(width=5, lr=0.25)
    assert vars(sys.modules[builder.build.__module__])["MADE"] == [5], "a model may be large: one is made to ask it"
    assert (task.name, task.defaults["lr"], task.model().net.out_features) == ("lit_model", 0.25, 5)
    record = train(task, steps=2, precision="fp32", out=tmp_path / "run")
    assert record.steps.applied == 2
    assert record.final["val/loss"] > 0
    assert record.final["train/lr"] == 0.25


def test_a_function_that_returns_a_module_gives_fresh_ones(tmp_path):
    task = find_task(f"{written(tmp_path, 'Data')}:make")(width=4)
    first, second = task.model(), task.model()
    assert first.net.out_features == 4
    assert not first.net.weight.equal(second.net.weight)


def test_one_of_several_data_modules_is_named(tmp_path):
    builder = find_task(f"{written(tmp_path, 'First', 'Second')}:LitModel")
    assert builder.options["datamodule"].annotation == Literal["First", "Second"]
    assert builder(datamodule="Second").defaults["batch_size"] == 3
    with pytest.raises(
        TaskError, match=r"has 2 data modules\. Allowed: First, Second\. Choose: --task\.datamodule NAME"
    ):
        builder()
    with pytest.raises(TaskError, match=r"no data module 'Secnd'\. Allowed: .*Did you mean 'Second'\?"):
        builder(datamodule="Secnd")


def test_without_data_the_error_says_what_to_give(tmp_path):
    path = written(tmp_path)
    assert "datamodule" not in find_task(f"{path}:LitModel").options
    with pytest.raises(TaskError, match=r"LitModel has no train_dataloader.*--task\.datamodule NAME"):
        find_task(f"{path}:LitModel")()
    with pytest.raises(
        TaskError, match=r"no function 'LitModle' .*Allowed: LitModel, make\. Did you mean 'LitModel'\?"
    ):
        find_task(f"{path}:LitModle")


def test_a_data_module_for_what_is_no_lightning_module_is_refused(tmp_path):
    path = written(tmp_path, "Data")
    path.write_text(path.read_text() + "\ndef other():\n    return 3\n")
    with pytest.raises(TaskError, match="datamodule 'Data' was named for something that is no LightningModule"):
        find_task(f"{path}:other")(datamodule="Data")
    with pytest.raises(TaskError, match="returned int"):
        find_task(f"{path}:other")()


def test_classes_are_told_by_library_and_name():
    class LightningModule:
        pass

    assert not is_a(LightningModule, "LightningModule", "lightning")
    LightningModule.__module__ = "lightning.pytorch.core.module"
    assert is_a(LightningModule(), "LightningModule", "lightning")
    assert not is_a(LightningModule, "Trainer", "lightning")


def test_a_function_that_returns_a_trainer_is_a_target(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parents[2] / "examples" / "takeover" / "transformers" / "before.py"
    task = find_task(f"{script}:make_trainer")()
    assert task.name == "resnetforimageclassification"
    assert (task.defaults["precision"], task.defaults["batch_size"]) == ("bf16-mixed", 64)
    record = train(task, steps=2, out=tmp_path / "run", precision="fp32")
    assert record.steps.applied == 2 and record.final["val/accuracy"] >= 0
