"""own_loop.py as a GAN: two networks, two optimizers, two guards, each with its own skips and loss scale."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampguard import Guard

EPOCHS = 5
NOISE = 16


def digits() -> TensorDataset:
    bunch = load_digits()
    return TensorDataset(torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target))


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 128), nn.LeakyReLU(0.2), nn.Linear(128, outputs))


def judged(critic: nn.Module, images: torch.Tensor, real: float) -> torch.Tensor:
    logits = critic(images)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))


def guarded(model: nn.Module) -> Guard:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True)
    return Guard(model, optimizer, precision="bf16")


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(digits(), batch_size=64, shuffle=True)
    generator, critic = network(NOISE, 64), network(64, 1)
    draw, judge = guarded(generator), guarded(critic)
    for _ in range(EPOCHS):
        for images, _labels in loader:
            with draw.autocast():
                fakes = generator(torch.randn(len(images), NOISE)).sigmoid()
            with judge.autocast():
                loss = judged(critic, images, 1.0) + judged(critic, fakes.detach(), 0.0)
            judge.backward(loss)
            judge.step()
            with draw.autocast():
                # Frozen here, so that the generator's backward leaves nothing in the critic's next step.
                loss = judged(critic.requires_grad_(False), fakes, 1.0)
            critic.requires_grad_(True)
            draw.backward(loss)
            draw.step()
    print("generator", draw)
    print("critic   ", judge)


if __name__ == "__main__":
    main()
