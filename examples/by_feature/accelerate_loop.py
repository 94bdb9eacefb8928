"""base.py with Accelerate: its Accelerator, guarded, in groups of two micro-batches."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampguard.integrations.accelerate import GuardedAccelerator

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


def main() -> None:
    torch.manual_seed(0)
    data = digits()
    loader = DataLoader(data, batch_size=32, shuffle=True)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    accelerator = GuardedAccelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for _ in range(EPOCHS):
        for images, labels in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
    print(accelerator.guard)
    print(f"accuracy {accuracy(model, data):.3f}")


if __name__ == "__main__":
    main()
