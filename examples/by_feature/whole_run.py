"""base.py as a Task: train() brings the loop, precision, checkpoints, resume, validation and a run folder."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import ampguard

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


def build() -> ampguard.Task:
    data = digits()
    return ampguard.Task(
        name="digits",
        model=network,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        train_data=data,
        val_data=data,
        defaults={"epochs": EPOCHS, "batch_size": 64, "lr": 3e-3},
    )


def main() -> None:
    record = ampguard.train(build())
    print(record)
    model = ampguard.load_model(record.run_dir, task=build())
    print(f"accuracy {accuracy(model, digits()):.3f}")


if __name__ == "__main__":
    main()
