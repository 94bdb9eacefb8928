"""An own loop after PyTorch's automatic mixed precision recipe: autocast, GradScaler, clipping, a checkpoint."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ampguard import GradScaler

device, epochs = "cpu", 5
torch.manual_seed(0)
bunch = load_digits()
data = TensorDataset(torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target))
loader = DataLoader(data, batch_size=64, shuffle=True)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
scaler = GradScaler(device, init_scale=2.0**24)

for _ in range(epochs):
    for images, labels in loader:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        applied = scaler.step(optimizer)
        scaler.update()
        if applied:
            scheduler.step()
    torch.save({"model": model.state_dict(), "scaler": scaler.state_dict()}, "digits.pt")

images, labels = data.tensors
with torch.no_grad():
    print(f"accuracy {(model.eval()(images).argmax(-1) == labels).float().mean():.3f}")
