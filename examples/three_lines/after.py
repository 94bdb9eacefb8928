"""A training loop as the tutorials of PyTorch write it."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from ampguard import Guard

bunch = load_digits()
images, labels = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
guard = Guard(model, optimizer, precision="bf16")

for _ in range(5):
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        with guard.autocast():
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        guard.backward(loss)
        guard.step()

print(f"accuracy {(model.eval()(images).argmax(-1) == labels).float().mean():.3f}")
