"""The Task `digits`: a small convolutional network with BatchNorm reads handwritten digits.

Real data (1,797 scanned digits of 8 x 8 pixels, shipped inside scikit-learn) and a model whose forward changes state:
BatchNorm's running statistics and its integer counter, which a skipped step must not move.

A fifth of each class is for validation, always the same.

Left out: augmentation and dropout, so that a run depends on nothing but its batches.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(the copy in scikit-learn is its test part).

Shapes: B batch, C channels, H height, W width, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from ampguard.errors import MissingExtraError
from ampguard.task import Sum, Task

_CLASSES = 10
_BRIGHTEST = 16.0
"""Pixels are counts from 0 to 16."""
_VAL_SHARE = 0.2

Pair = tuple[Tensor, Tensor] | list[Tensor]
"""Images, float32, shape (B, 1, 8, 8), in [0, 1]; labels, int64, shape (B,)."""


def build() -> Task:
    """Return the Task.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    train, val = _digits()
    return Task(
        name="digits",
        model=ConvNet,
        loss=loss,
        train_data=train,
        val_data=val,
        evaluate=evaluate,
        defaults={
            "lr": 3e-3,
            "steps": 300,
            "batch_size": 64,
            "warmup_steps": 20,
            "schedule": "cosine",
            "weight_decay": 0.01,
            "validate_every": 100,
            # Gradients are small here. In fp16 the scale begins at its ceiling, and the first skips find what fits.
            "init_scale": 2.0**24,
        },
        info={"train_samples": len(train), "val_samples": len(val), "classes": _CLASSES},
    )


class ConvNet(nn.Module):
    """Three convolutions, each with BatchNorm and ReLU, then one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, 32), *_convolution(32, 64), nn.MaxPool2d(2), *_convolution(64, 64), nn.MaxPool2d(2)
        )
        self.classify = nn.Linear(64 * 2 * 2, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, K). images: shape (B, 1, 8, 8)."""
        features_BCHW = self.features(images)
        logits: Tensor = self.classify(features_BCHW.flatten(1))
        return logits


def loss(model: nn.Module, batch: Pair) -> Tensor:
    """Return the mean cross-entropy in nats, shape ()."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def evaluate(model: nn.Module, batch: Pair) -> dict[str, Sum]:
    """Return the cross-entropy and the share of images that are read right."""
    images, labels = batch
    logits = model(images).float()
    right = (logits.argmax(-1) == labels).sum()
    return {
        "loss": Sum(F.cross_entropy(logits, labels, reduction="sum"), len(labels)),
        "accuracy": Sum(right, len(labels)),
    }


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # No bias: BatchNorm's own takes its place.
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def _digits() -> tuple[TensorDataset, TensorDataset]:
    """Return the training and validation data: scikit-learn's images, split by class with a fixed seed."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "sklearn":
            raise
        raise MissingExtraError("scikit-learn", "demo", "The Task 'digits'") from error
    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / _BRIGHTEST
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    train, val = train_test_split(range(len(labels)), test_size=_VAL_SHARE, stratify=bunch.target, random_state=0)
    return TensorDataset(images[train], labels[train]), TensorDataset(images[val], labels[val])
