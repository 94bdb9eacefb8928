"""Optimizers and schedules that no file of a project keeps, told by what is handed to whom."""

import pytest

HELPER = """
import torch


def save_checkpoint(path, model, optimizer, scheduler=None):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    if scheduler is not None:
        state["scheduler"] = scheduler.state_dict()
    torch.save(state, path)


class Checkpointer:
    def __init__(self, model, **objects):
        self.model, self.objects = model, objects

    def save(self, path):
        state = {"model": self.model.state_dict()}
        for name, one in self.objects.items():
            state[name] = one.state_dict()
        torch.save(state, path)
"""

SCRIPT = """
import torch
from helper import Checkpointer, save_checkpoint


def train(model, batches, path):
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    for batch in batches:
        model(batch).backward()
        optimizer.step()
    scheduler.step()
    {save}
"""


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        ("save_checkpoint(path, model, optimizer)", [("script.py", 13)]),
        ("save_checkpoint(path, model, optimizer, scheduler)", []),
        ("Checkpointer(model, optimizer=optimizer).save(path)", [("script.py", 13)]),
        ("Checkpointer(model, optimizer=optimizer, scheduler=scheduler).save(path)", []),
    ],
)
def test_what_is_not_handed_to_what_saves_is_told_where_it_is_called(findings, save, expected):
    files = {"helper.py": HELPER, "script.py": SCRIPT.format(save=save)}
    assert [(f.path, f.line) for f in findings(files, select=["CKP003"])] == expected


BASE = """
import torch


class Base:
    def __init__(self, model):
        self.model, self.best = model, 0
        self.optimizer = torch.optim.Adam(model.parameters())

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
"""

DERIVED = """
import torch
from base import Base


class Derived(Base):
    def __init__(self, model):
        super().__init__(model)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer)

    def state_dict(self):
        return super().state_dict() | {more}

    def train(self, batches):
        for batch in batches:
            self.model(batch).backward()
            self.optimizer.step()
            self.scheduler.step()
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [('{"best": self.best}', [("derived.py", 12)]), ('{"rates": self.scheduler.state_dict()}', [])],
)
def test_a_state_that_is_added_to_is_followed_into_the_base_class(findings, more, expected):
    derived = DERIVED.replace("{more}", more)
    files = {"base.py": BASE, "derived.py": derived}
    assert [(f.path, f.line) for f in findings(files, select=["CKP003"])] == expected
