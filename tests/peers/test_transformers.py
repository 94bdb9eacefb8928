"""Hugging Face's Trainer itself, and ours on the same case: the fact M1 of docs/peers.md, one storey up.

The Trainer holds the LR when Accelerate says that a step was skipped, and its default optimizer is fused AdamW.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from ampguard import Guard

FIXED = "transformers or Accelerate has fixed this: update docs/peers.md ({})"
STEPS = 4
INIT_SCALE = 2.0**10

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Overflowing(nn.Module):
    """A line through zero whose first two training batches overflow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(4, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        out = self.line(x * (float("inf") if self.calls <= 2 else 1.0))
        return {"loss": out.float().square().mean(), "out": out}


class Ones(Dataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return {"x": torch.ones(4)}


def trained(folder, optimizer: str) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=1,
        learning_rate=0.1,
        lr_scheduler_type="linear",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **({"optim": optimizer} if optimizer else {}),
    )
    trainer = Trainer(Overflowing(), arguments, train_dataset=Ones())
    # Accelerate makes a scaler on GPUs only; everything after this line is the Trainer's own.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=INIT_SCALE)
    trainer.train()
    return trainer


def test_the_lr_counts_applied_steps_in_ours_and_overflows_too_in_the_trainer(tmp_path):
    right = 0.1 * (1 - 2 / STEPS)
    unfused = trained(tmp_path, "adamw_torch")
    assert unfused.lr_scheduler.get_last_lr()[0] == pytest.approx(right)
    default = trained(tmp_path, "")
    assert default.accelerator.scaler.get_scale() == INIT_SCALE / 4
    assert default.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0), FIXED.format("M1")

    model = Overflowing()
    optimizer = AdamW(model.parameters(), lr=torch.tensor(0.1), fused=True)
    options = {"precision": "fp16", "on_unsupported": "emulate", "init_scale": INIT_SCALE}
    guard = Guard(
        model,
        optimizer,
        schedule=lambda o: LambdaLR(o, lambda step: 1 - step / STEPS),
        on_event=lambda event: None,
        **options,
    )
    for _ in range(STEPS):
        with guard.autocast():
            loss = model(torch.ones(1, 4))["loss"]
        guard.backward(loss)
        guard.step()
    assert guard.read().applied_steps == 2
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(right)
