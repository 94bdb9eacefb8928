"""Binary cross-entropy in a file of losses of a project that trains by a framework with mixed precision."""

import pytest

from ampguard.auditing.findings import Severity

LOSSES = """
import torch.nn as nn
import torch.nn.functional as F


class Assignment(nn.Module):
    def forward(self, probabilities, target):
        return F.binary_cross_entropy(probabilities, target)
"""


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ("from pytorch_accelerated import Trainer\n\n\nclass Yolo(Trainer):\n    pass\n", True),
        ("import lightning as L\n\ntrainer = L.Trainer(devices=count(), precision='16-mixed')\n", True),
        ("import lightning as L\n\ntrainer = L.Trainer(devices=count(), precision=32)\n", False),
        ("from transformers import TrainingArguments\n\nargs = TrainingArguments(out(), fp16=True)\n", True),
        ("from transformers import TrainingArguments\n\nargs = TrainingArguments(out(), fp16=False)\n", False),
        ("from detectron2.engine import AMPTrainer\n\ntrainer = AMPTrainer(model, loader, optimizer)\n", True),
        ("learner = Learner(data, model, loss_func=Assignment()).to_fp16()\n", True),
        ("with accelerator.autocast():\n    loss = net(x)\naccelerator.backward(loss)\n", True),
        ("with torch.autocast('cuda', torch.bfloat16):\n    loss = net(x)\nloss.backward()\n", True),
        ("loss = net(x)\nloss.backward()\n", False),
    ],
)
def test_a_loss_is_told_where_the_projects_framework_uses_autocast(findings, trainer, told):
    found = findings({"losses.py": LOSSES, "trainer.py": trainer}, select=["AMP023"])
    assert [(f.path, f.line, f.severity) for f in found] == [("losses.py", 8, Severity.LOW)] * told
