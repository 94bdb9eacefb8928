"""Checkpoints whose saver, resumer and loop stand in different files, and what they leave out."""

import pytest

BUILDER = """
import torch


def resume_model(model, path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    return state["epoch"] + 1


def resume_optimizer(optimizer, path):
    optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["optimizer"])


def save_checkpoint(model, optimizer, epoch, path):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, path)
"""

RUNNER = """
import builder


def run(model, loader, config, path):
    start_epoch = builder.resume_model(model, path)
    optimizer, scheduler = make(model, config{told})
    builder.resume_optimizer(optimizer, path)
    for epoch in range(start_epoch, config.epochs):
        for x in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
        scheduler.step()
        builder.save_checkpoint(model, optimizer, epoch, path)
"""

OWN_SCHEDULE = """
class Warmup:
    def __init__(self, optimizer, last_epoch=-1):
        self.last_epoch = last_epoch
        self.sched = optimizer

    def step(self):
        self.last_epoch += 1
"""


@pytest.mark.parametrize(
    ("told", "expected"), [("", [("builder.py", 16), ("runner.py", 15)]), (", last_epoch=start_epoch - 1", [])]
)
def test_a_saver_without_schedule_is_told_where_another_file_steps_one(findings, told, expected):
    files = {"builder.py": BUILDER, "runner.py": RUNNER.format(told=told), "warmup.py": OWN_SCHEDULE}
    assert [(f.path, f.line) for f in findings(files, select=["CKP003"])] == expected


SAVER = """
import torch


class Saver:
    def __init__(self, folder, step):
        self.folder, self.global_step = folder, step
        {more}

    def save_model(self, model, optimizer, name):
        path = self.folder / name
        states = {{"model": model.state_dict(), "optimizer": optimizer.state_dict()}}
        torch.save({{"global_step": self.global_step, **states}}, path)


def load_model(path, model, optimizer):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["global_step"]
"""

SOLVER = """
from saver import Saver


def train(folder, start, model, optimizer, scheduler, loader):
    saver = Saver(folder, start)
    for x in loader:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        scheduler.step()
    saver.save_model(model, optimizer, "last.pt")
"""


@pytest.mark.parametrize(("more", "expected"), [("pass", [("saver.py", 13)]), ("self.optimizer = None", [])])
def test_a_class_that_only_saves_is_told_where_its_user_steps_a_schedule(findings, more, expected):
    files = {"saver.py": SAVER.format(more=more), "solver.py": SOLVER}
    found = [(f.path, f.line) for f in findings(files, select=["CKP003"])]
    assert found == [*expected, ("solver.py", 12)]  # who calls it hands the schedule to nobody


LOADER = """
import torch


def load_saved_model(path, model, optimizer):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    {also}
    return state["epoch"], model
"""

TRAIN = """
import torch
import loader


def main(options, model, optimizer, batches):
    init_epoch = 0
    if options.model_dir:
        init_epoch, model = loader.load_saved_model(options.model_dir, model, optimizer)
    for epoch in range(init_epoch, options.epochs):
        for x in batches:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
        torch.save(model.state_dict(), options.model_dir / f"net_epoch{epoch + 1}.pth")
"""


@pytest.mark.parametrize(
    ("also", "expected"),
    [("print(optimizer)", [("train.py", 15)]), ('optimizer.load_state_dict(state["optimizer"])', [])],
)
def test_a_model_saved_alone_is_told_where_a_loader_elsewhere_gives_the_epoch(findings, also, expected):
    files = {"loader.py": LOADER.format(also=also), "train.py": TRAIN}
    assert [(f.path, f.line) for f in findings(files, select=["CKP003"])] == expected
