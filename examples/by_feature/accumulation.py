"""own_loop.py in micro-batches: the step is the exact mean over all its samples, the short last batch included."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampguard import Guard, LossSum

EPOCHS = 5
MICRO_BATCH = 24  # 64 samples are cut into 24, 24 and 16


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
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    guard = Guard(model, optimizer, precision="bf16", max_grad_norm=1.0)
    for _ in range(EPOCHS):
        for images, labels in loader:
            for x, y in zip(images.split(MICRO_BATCH), labels.split(MICRO_BATCH), strict=True):
                with guard.autocast():
                    total = F.cross_entropy(model(x), y, reduction="sum")
                guard.backward(LossSum(total, len(y)))
            guard.step()
    print(guard)
    print(f"accuracy {accuracy(model, data):.3f}")


if __name__ == "__main__":
    main()
