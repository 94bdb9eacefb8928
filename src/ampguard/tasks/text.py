"""The Task `text`: a byte-level GPT learns to write Python, from the standard library's own sources.

Real text, no download, and a bar to clear: the entropy of single bytes in the validation files
(`info["unigram_entropy_val"]`). A model that learns more than how frequent each byte is comes out below it.

A sample is `context + 1` bytes; windows do not overlap, and each byte of the corpus but the last few is predicted
once an epoch. Validation predicts 32 KiB, spread evenly over files that are never trained on; the entropy is that of
just these bytes.

Left out: a tokenizer, and sequences that respect the ends of files.

Shapes: B batch, T tokens, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from ampguard.errors import TaskError, did_you_mean
from ampguard.task import LossSum, Sum, Task
from ampguard.tasks.corpus import stdlib_corpus, unigram_entropy
from ampguard.tasks.gpt import GPT, GPTConfig

Size = Literal["tiny", "small", "base"]

_VAL_BYTES = 2**15
"""Bytes that validation predicts, spread evenly: their unigram entropy is within 0.03 nats of all 527 kB's for every
size, and `tiny` takes under a second."""


@dataclass(frozen=True, kw_only=True)
class _Preset:
    """A size: the model, and the training that suits it."""

    layers: int
    width: int
    heads: int
    context: int
    training: Mapping[str, Any]


_PRESETS: Mapping[Size, _Preset] = {
    "tiny": _Preset(
        layers=2,
        width=64,
        heads=2,
        context=64,
        training={"lr": 4e-3, "steps": 600, "batch_size": 32, "warmup_steps": 20, "validate_every": 150},
    ),
    "small": _Preset(
        layers=6,
        width=384,
        heads=6,
        context=256,
        training={"lr": 1e-3, "steps": 2000, "batch_size": 32, "warmup_steps": 100, "validate_every": 250},
    ),
    "base": _Preset(
        layers=12,
        width=768,
        heads=12,
        context=1024,
        training={"lr": 6e-4, "steps": 5000, "batch_size": 32, "warmup_steps": 200, "validate_every": 500},
    ),
}
_TRAINING = {"schedule": "cosine", "weight_decay": 0.1, "max_grad_norm": 1.0}
"""Source: nanoGPT and GPT-3 (Brown et al. 2020, appendix B): cosine, decay 0.1, clipping at 1.0."""


def build(size: Size = "tiny", context: int | None = None, dropout: float = 0.0) -> Task:
    """Return the Task.

    Args:
        size: tiny (2 layers x 64, for a CPU), small (6 x 384) or base (12 x 768, GPT-2's shape).
        context: Bytes that the model sees at once; None: 64, 256 or 1024, by size.
        dropout: Probability in [0, 1).

    Raises:
        TaskError: `size` is unknown, or this Python has no sources.
        ConfigError: `context` or `dropout` is out of range.
    """
    preset = _preset(size)
    window = preset.context if context is None else context
    config = GPTConfig(layers=preset.layers, width=preset.width, heads=preset.heads, context=window, dropout=dropout)
    corpus = stdlib_corpus()
    val = _evenly(Windows(corpus.val, window), window)
    baseline = {"unigram_entropy_val": round(unigram_entropy(_targets(val)), 4)}
    return Task(
        name="text",
        model=partial(GPT, config),
        loss=loss,
        train_data=Windows(corpus.train, window),
        val_data=val,
        evaluate=evaluate,
        count=count,
        defaults={**_TRAINING, **preset.training},
        info={"size": size, "context": window, **corpus.info, **baseline},
    )


class Windows(Dataset[Tensor]):
    """Bytes as windows of context + 1, each starting where the one before has its last target.

    Args:
        data: The bytes.
        context: Tokens that the model sees at once.
    """

    def __init__(self, data: bytes, context: int) -> None:
        if len(data) <= context:
            raise TaskError(
                f"context is {context}, but there are only {len(data)} bytes.", hint="Use a smaller context."
            )
        self._bytes = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._context = context

    def __len__(self) -> int:
        return (len(self._bytes) - 1) // self._context

    def __getitem__(self, index: int) -> Tensor:
        start = index * self._context
        return self._bytes[start : start + self._context + 1]


def loss(model: nn.Module, batch: Tensor) -> LossSum:
    """Return the cross-entropy in nats, summed over the bytes that follow. batch: uint8, shape (B, T + 1)."""
    logits_BTV, targets_BT = _predict(model, batch)
    return LossSum(_cross_entropy(logits_BTV, targets_BT), targets_BT.numel())


def evaluate(model: nn.Module, batch: Tensor) -> dict[str, Sum]:
    """Return the cross-entropy and the share of bytes that are predicted right. batch: uint8, shape (B, T + 1)."""
    logits_BTV, targets_BT = _predict(model, batch)
    right = (logits_BTV.argmax(-1) == targets_BT).sum()
    tokens = targets_BT.numel()
    return {"loss": Sum(_cross_entropy(logits_BTV, targets_BT), tokens), "accuracy": Sum(right, tokens)}


def count(batch: Tensor) -> dict[str, int]:
    """Return the windows and the predicted bytes of a batch. batch: shape (B, T + 1)."""
    samples, length = batch.shape
    return {"samples": samples, "tokens": samples * (length - 1)}


def _predict(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    tokens = batch.long()
    return model(tokens[:, :-1]), tokens[:, 1:]


def _cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    # float: under autocast that is what cross_entropy does anyway; with bf16 weights the sum needs it.
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum")


def _evenly(windows: Windows, context: int) -> Subset[Tensor]:
    chosen = min(len(windows), max(1, _VAL_BYTES // context))
    return Subset(windows, [place * len(windows) // chosen for place in range(chosen)])


def _targets(windows: Subset[Tensor]) -> bytes:
    return b"".join(bytes(windows[place][1:].tolist()) for place in range(len(windows)))


def _preset(size: str) -> _Preset:
    for name, preset in _PRESETS.items():
        if name == size:
            return preset
    raise TaskError(
        f"the Task 'text' has no size '{size}'.", allowed=get_args(Size), hint=did_you_mean(size, get_args(Size))
    )
