"""Tasks for replays: a bad sample, an fp16 overflow, a gradient that is not finite, in data of every kind."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from ampguard import Task

SAMPLES = 96


@dataclass
class Batch:
    images: Tensor
    rest: dict


def collate(samples):
    images, labels, flags = (torch.stack(column) for column in zip(*samples, strict=True))
    # Drawn from the generators that belong to the batch's place.
    return Batch(images=images + 0.1 * torch.randn_like(images), rest={"labels": labels, "flags": flags})


class Product(nn.Module):
    """A product that leaves fp16 where its input is large."""

    def forward(self, x):
        return (x @ (x.T * 1e4)).float().clamp(max=1e4).mean(1, keepdim=True) * 1e-6


class Net(nn.Module):
    def __init__(self, overflows):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.product = Product() if overflows else None
        self.head = nn.Linear(8, 2)

    def forward(self, x, flags):
        hidden = self.body(x)
        if self.product is not None:
            hidden = hidden + self.product(hidden * flags[:, None])
        return self.head(hidden)


def loss(model, batch):
    logits = model(batch.images, batch.rest["flags"])
    # Its derivative at 0 is not finite, its value is: a flag of 0 spoils the gradient alone.
    roots = torch.sqrt((logits.float() * batch.rest["flags"][:, None]).pow(2).sum(1)).mean()
    return nn.functional.cross_entropy(logits.float(), batch.rest["labels"]) + 1e-3 * roots


class Stream(IterableDataset):
    """Samples in order, read from the start each time."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield from self.data


class Stateful(Stream):
    """Samples in order, that go on from a state."""

    at = 0

    def __iter__(self):
        while self.at < len(self.data):
            self.at += 1
            yield self.data[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def build(bad: int = -1, zero: int = -1, large: int = -1, kind: str = "samples", norm: float = 300.0) -> Task:
    """One sample is NaN (bad), spoils the gradient (zero), or overflows in fp16 (large; all, from SAMPLES on)."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(SAMPLES, 6, generator=generator)
    labels, flags = (images[:, 0] > 0).long(), torch.ones(SAMPLES)
    if bad >= 0:
        images[bad, 2] = float("nan")
    if zero >= 0:
        flags[zero] = 0.0
    if large >= 0:
        flags[large if large < SAMPLES else slice(None)] = norm
    data = TensorDataset(images, labels, flags)
    streams = {"stream": Stream, "stateful": Stateful}
    train_data = streams[kind](data) if kind in streams else data
    if kind == "list":
        train_data = [collate([data[i] for i in range(at, at + 16)]) for at in range(0, SAMPLES, 16)]
    return Task(
        name="replayed",
        model=lambda: Net(overflows=large >= 0),
        loss=loss,
        train_data=train_data,
        collate=collate,
        defaults={"steps": 12, "lr": 1e-2, "batch_size": 16, "log_every": 5, "precision": "fp32"},
    )
