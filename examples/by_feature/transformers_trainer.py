"""base.py with Hugging Face: its Trainer, guarded."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from transformers import TrainingArguments

from ampguard.integrations.transformers import GuardedTrainer

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


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images, labels):
        logits = self.network(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def main() -> None:
    torch.manual_seed(0)
    data = digits()
    model = Classifier()
    size = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": 64, "learning_rate": 3e-3}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments("out", bf16=True, use_cpu=True, **size, **quiet)
    rows = [{"images": image, "labels": label} for image, label in data]
    trainer = GuardedTrainer(model, arguments, train_dataset=rows)
    trainer.train()
    print(trainer.guard)
    print(f"accuracy {accuracy(model.network, data):.3f}")


if __name__ == "__main__":
    main()
