"""A Task whose samples are drawn anew at each fetch, from all three global generators; its model draws, too."""

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ampguard import Task

SAMPLES = 96


class Noisy(Dataset):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = torch.full((6,), index / SAMPLES) + torch.randn(6)
        return x + random.gauss(0, 1) + float(np.random.standard_normal()), index % 2


def build() -> Task:
    return Task(
        name="noisy",
        model=lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        train_data=Noisy(),
        val_data=Noisy(),
        defaults={"lr": 1e-2, "batch_size": 20},
    )
