"""own_loop.py saved after each epoch and continued from there, loss scale and counters included."""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampguard import Guard

EPOCHS = 5
CHECKPOINT = Path(sys.argv[1] if len(sys.argv) > 1 else "digits.pt")


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
    start = 0
    if CHECKPOINT.exists():
        state = torch.load(CHECKPOINT, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        guard.load_state_dict(state["guard"])
        start = state["epochs"]
    for epoch in range(start, EPOCHS):
        for images, labels in loader:
            with guard.autocast():
                loss = F.cross_entropy(model(images), labels)
            guard.backward(loss)
            guard.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "guard": guard.state_dict()}
        torch.save({**state, "epochs": epoch + 1}, CHECKPOINT.with_suffix(".part"))
        CHECKPOINT.with_suffix(".part").replace(CHECKPOINT)
    print(guard)
    print(f"accuracy {accuracy(model, data):.3f}")


if __name__ == "__main__":
    main()
