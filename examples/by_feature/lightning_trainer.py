"""base.py with Lightning: its Trainer, guarded by a callback."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampguard.integrations.lightning import GuardCallback

EPOCHS = 5


def digits() -> TensorDataset:
    bunch = load_digits()
    return TensorDataset(torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    images, labels = data.tensors
    with torch.no_grad():
        return (model.eval()(images).argmax(-1) == labels).float().mean().item()


class LitDigits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch, index):
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3, fused=True)


def main() -> None:
    torch.manual_seed(0)
    data = digits()
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model = LitDigits()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [GuardCallback()]
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        callbacks=callbacks,
        **quiet,
    )
    trainer.fit(model, loader)
    print(trainer.precision_plugin.guard)
    print(f"accuracy {accuracy(model.network, data):.3f}")


if __name__ == "__main__":
    main()
