"""The Task `text` with four blocks, of which the last grows loud: its attention scores leave fp16 and stay within fp32.

The scores are those of the model without it: queries and keys are multiplied by a large number, and their products
divided by its square.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ampguard import Task
from ampguard.tasks.gpt import GPT, Attention, GPTConfig
from ampguard.tasks.text import build as text

LOUD = "blocks.3.attention"
FACTOR = 1e4


class LoudAttention(nn.Module):
    """Causal self-attention whose scores are computed much too large, from a step on."""

    def __init__(self, quiet: Attention, quiet_steps: int) -> None:
        super().__init__()
        self.heads, self.query_key_value, self.project = quiet.heads, quiet.query_key_value, quiet.project
        self.quiet_steps = quiet_steps
        # A buffer, so that a checkpoint keeps it; it counts applied steps, since a skipped one takes it back.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BTC: Tensor) -> Tensor:
        factor = FACTOR if self.steps >= self.quiet_steps else 1.0
        self.steps += self.training
        q_BHTD, k_BHTD, v_BHTD = (
            self.query_key_value(x_BTC).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        )
        scores_BHTT = (q_BHTD * factor) @ (k_BHTD * factor).mT / factor**2 * q_BHTD.shape[-1] ** -0.5
        later_TT = torch.ones(scores_BHTT.shape[-2:], dtype=torch.bool).triu(1)
        weights_BHTT = scores_BHTT.masked_fill(later_TT, -torch.inf).softmax(-1)
        return self.project((weights_BHTT @ v_BHTD).transpose(1, 2).flatten(2))


def loud_model(quiet_steps: int = 0) -> nn.Module:
    model = GPT(GPTConfig(layers=4, width=16, heads=2, context=16, dropout=0.0))
    model.blocks[3].attention = LoudAttention(model.blocks[3].attention, quiet_steps)
    return model


def build(quiet_steps: int = 0) -> Task:
    task = text(context=16)
    defaults = {**task.defaults, "steps": 150, "batch_size": 16, "validate_every": 150, "warmup_steps": 10}
    return replace(task, model=lambda: loud_model(quiet_steps), defaults=defaults)
