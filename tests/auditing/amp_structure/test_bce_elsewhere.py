"""Binary cross-entropy of probabilities that an autocast reaches through another file of the project."""

import pytest

from ampguard.auditing.findings import Severity

LOSSES = """
import torch.nn as nn
import torch.nn.functional as F


class BceDice(nn.Module):
    def __init__(self):
        super().__init__()
        self.bce = nn.BCELoss()

    def forward(self, probabilities, target):
        return self.bce(probabilities, target) + dice(probabilities, target)


class Focal(nn.Module):
    def forward(self, probabilities, target):
        return weighted(probabilities, target).mean()


class OfLogits(nn.Module):
    def forward(self, logits, target):
        return F.binary_cross_entropy_with_logits(logits, target)


def weighted(probabilities, target):
    return F.binary_cross_entropy(probabilities, target, reduction="none") * 0.25


def dice(probabilities, target):
    return 1 - (probabilities * target).sum()
"""

TRAINER = """
import torch
from losses import BceDice, Focal, OfLogits, dice, weighted


class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.criterion = {made}
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, x, y):
        with torch.autocast("cuda", dtype=torch.float16{switch}):
            loss = {loss}
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
"""


@pytest.mark.parametrize(
    ("made", "loss", "expected"),
    [
        ("BceDice()", "self.criterion(self.model(x), y)", [14]),
        ("Focal().to('cuda')", "self.criterion(self.model(x), y)", [14]),
        ("None", "weighted(self.model(x), y).mean()", [14]),
        ("OfLogits()", "self.criterion(self.model(x), y)", []),
        ("None", "dice(self.model(x), y)", []),
    ],
)
def test_a_region_that_runs_a_loss_of_another_file_is_told(findings, made, loss, expected):
    files = {"losses.py": LOSSES, "trainer.py": TRAINER.format(made=made, loss=loss, switch="")}
    found = [f for f in findings(files, select=["AMP023"]) if f.path == "trainer.py"]
    assert [(f.line, f.severity) for f in found] == [(line, Severity.HIGH) for line in expected]


def test_a_region_that_is_off_may_run_it(findings):
    loss = "self.criterion(self.model(x), y)"
    files = {"losses.py": LOSSES, "trainer.py": TRAINER.format(made="Focal()", loss=loss, switch=", enabled=False")}
    assert [f for f in findings(files, select=["AMP023"]) if f.path == "trainer.py"] == []


ENGINE = """
import torch


def train_one_epoch(model, criterion, loader, optimizer, scaler):
    for x, y in loader:
        with torch.cuda.amp.autocast():
            output = model(x)
            {inside}
        {outside}
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
"""

MAIN = """
import torch.nn as nn
from engine import train_one_epoch
from losses import Focal


def main(model, loader, optimizer, scaler, args):
    criterion = {made}
    train_one_epoch(model, criterion, loader, optimizer, scaler)
"""


@pytest.mark.parametrize(
    ("made", "inside", "expected"),
    [
        ("nn.BCELoss()", True, [9]),
        ("nn.BCELoss() if args.binary else nn.CrossEntropyLoss()", True, [9]),
        ("Focal()", True, [9]),
        ("nn.BCEWithLogitsLoss()", True, []),
        ("nn.BCELoss()", False, []),
    ],
)
def test_a_loss_that_is_handed_to_a_region_is_told(findings, made, inside, expected):
    lines = ("loss = criterion(output, y)", "pass")
    engine = ENGINE.format(inside=lines[not inside], outside=lines[inside])
    files = {"losses.py": LOSSES, "engine.py": engine, "main.py": MAIN.format(made=made)}
    found = [f for f in findings(files, select=["AMP023"]) if f.path == "main.py"]
    assert [f.line for f in found] == expected


def test_a_loss_that_a_trainer_keeps_is_told_where_it_is_handed_over(findings):
    trainer = TRAINER.format(made="criterion", loss="self.criterion(self.model(x), y)", switch="")
    trainer = trainer.replace("model, optimizer):", "model, optimizer, criterion):")
    main = "import torch.nn as nn\nfrom trainer import Trainer\n\n\ndef main(model, optimizer):\n"
    main += "    Trainer(model, optimizer, criterion=nn.BCELoss()).step(1, 2)\n"
    files = {"losses.py": LOSSES, "trainer.py": trainer, "main.py": main}
    assert [(f.path, f.line) for f in findings(files, select=["AMP023"]) if f.path != "losses.py"] == [("main.py", 6)]
