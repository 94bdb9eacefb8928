"""A byte-level GPT: the model of the Task `text`.

A decoder of pre-norm blocks, causal self-attention through `scaled_dot_product_attention` and a GELU MLP four times as
wide, with learned positions and the output matrix tied to the token embedding. It is GPT-2 with bytes for tokens, so
its cost per token is well known, and every precision meets what it meets in larger models: matrix products, softmax,
norms, and a large tied matrix.

Left out: generation and its key-value cache.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", sections 2.2 and 2.3.

Shapes: B batch, T tokens, C channels (width), H heads, D channels of a head, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ampguard.errors import ConfigError

VOCABULARY = 256
"""Every byte is a token."""

_INIT_STD = 0.02
"""Source: GPT-2's initializer_range."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The size of a GPT."""

    layers: int
    """Number of blocks, >= 1."""
    width: int
    """Channels, C; a multiple of `heads`."""
    heads: int
    """Attention heads, H."""
    context: int
    """Longest sequence, in tokens."""
    dropout: float = 0.0
    """Probability in [0, 1); 0, because a run that must be compared bit for bit should not depend on it."""

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.context) < 1:
            raise ConfigError(f"layers, width, heads and context must be at least 1: {self}.")
        if self.width % self.heads:
            raise ConfigError(f"width is {self.width}, which is no multiple of heads, {self.heads}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}; it must be in [0, 1).")


class GPT(nn.Module):
    """A decoder-only transformer over bytes, drawn from torch's global generator."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.recomputes = False
        self.tokens = nn.Embedding(VOCABULARY, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.lm_head = nn.Linear(config.width, VOCABULARY, bias=False)
        self._initialise()
        self.lm_head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next byte, shape (B, T, V). tokens: int64, shape (B, T), T <= context."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x_BTC = self.dropout(self.tokens(tokens) + self.positions(positions))
        for block in self.blocks:
            recompute = self.recomputes and self.training
            x_BTC = checkpoint(block, x_BTC, use_reentrant=False) if recompute else block(x_BTC)
        logits_BTV: Tensor = self.lm_head(self.norm(x_BTC))
        return logits_BTV

    def gradient_checkpointing_enable(self) -> None:
        """Keep only what enters each block, and compute the block again in the backward pass."""
        self.recomputes = True

    def _initialise(self) -> None:
        """Draw weights as GPT-2 does: the last projection of each residual branch is scaled by 1/sqrt(2 * layers)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                std = _INIT_STD / (2 * self.config.layers) ** 0.5 if name.endswith(".project") else _INIT_STD
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class Block(nn.Module):
    """Attention, then an MLP, each added to what came in."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return shape (B, T, C)."""
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
        mixed_BTC: Tensor = x_BTC + self.mlp(self.mlp_norm(x_BTC))
        return mixed_BTC


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attend_dropout = config.dropout
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return shape (B, T, C)."""
        qkv_BT3HD = self.query_key_value(x_BTC).unflatten(-1, (3, self.heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv_BT3HD.transpose(1, 3).unbind(2)
        dropout = self.attend_dropout if self.training else 0.0
        out_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True)
        projected_BTC: Tensor = self.dropout(self.project(out_BHTD.transpose(1, 2).flatten(2)))
        return projected_BTC


class MLP(nn.Module):
    """Two matrices with a GELU between, four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.project = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return shape (B, T, C)."""
        y_BTC: Tensor = self.dropout(self.project(F.gelu(self.expand(x_BTC))))
        return y_BTC
