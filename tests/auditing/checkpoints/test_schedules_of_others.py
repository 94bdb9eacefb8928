"""Checkpoints without the schedule, where another file goes on from them, or moves the schedules."""

import pytest

SAVER = """
import torch


class Base:
    def step(self, engine):
        engine.lr_scheduler.step()

    @staticmethod
    def save_model(engine, path):
        torch.save({"model": engine.model.state_dict(), "opt": engine.optimizer.state_dict()}, path)
"""

SCRIPT = """
import torch


def main(model, optimizer, path):
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    {load}
"""


@pytest.mark.parametrize("load", ['optimizer.load_state_dict(saved["opt"])', "pass"])
def test_a_save_of_model_and_optimizer_is_asked_for_the_schedule(findings, load):
    files = {"run/trainer.py": SAVER, "run/main.py": SCRIPT.format(load=load)}
    assert [(f.path, f.line) for f in findings(files, select=["CKP003"])] == [("run/trainer.py", 11)]


MOVER = """
class Optimizers:
    def scheduler_step_all(self, step: int) -> None:
        for name, scheduler in self.schedulers.items():
            scheduler.step()
{more}
"""

TRAINER = """
import torch


class Trainer:
    def save_checkpoint(self, path, step):
        states = {name: o.state_dict() for name, o in self.optimizers.optimizers.items()}
        torch.save({"step": step, "model": self.model.state_dict(), "optimizers": states}, path)

    def train_iteration(self, step):
        self.optimizers.optimizer_step_all()
        self.optimizers.scheduler_step_all(step)
"""
KEEPS = "    def keep(self):\n        return [scheduler.state_dict() for scheduler in self.schedulers.values()]"


@pytest.mark.parametrize(("more", "expected"), [("", [("run/trainer.py", 8)]), (KEEPS, [])])
def test_schedules_that_a_method_of_another_file_moves_are_missed(findings, more, expected):
    files = {"run/optimizers.py": MOVER.format(more=more), "run/trainer.py": TRAINER}
    found = list(findings(files, select=["CKP003"]))
    assert [(f.path, f.line) for f in found] == expected
    assert all("scheduler_step_all()" in f.message for f in found)
