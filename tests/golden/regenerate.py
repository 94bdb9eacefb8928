"""Tiny fixed runs, one per precision, and the script that writes down their losses.

    python tests/golden/regenerate.py

writes tests/golden/<precision>.jsonl: one object a step with loss, grad_norm, loss_scale, applied and lr. Weights
and data are sines of whole numbers, so that no random generator has a say. A change of these files is a change of
the numerics and is reviewed as one.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from ampguard import LossSum
from ampguard.engine import Guard

FOLDER = Path(__file__).parent
PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed", "bf16-true")
STEPS = 24
BAD_STEP = 9
"""Its batch holds an inf."""
KEYS = ("step", "loss", "grad_norm", "loss_scale", "applied", "lr")


def sines(*shape: int, start: int, size: float = 1.0) -> Tensor:
    """Return numbers without a pattern in (-size, size), float32, of `shape`."""
    count = torch.Size(shape).numel()
    return (size * torch.sin(12.9898 * torch.arange(start, start + count, dtype=torch.float64))).float().reshape(shape)


def make_net() -> nn.Sequential:
    """Return a net with BatchNorm whose weights are sines."""
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        for layer in (net[0], net[3]):
            layer.weight.copy_(sines(*layer.weight.shape, start=17, size=0.3))
            layer.bias.zero_()
    return net


def run(precision: str) -> Iterator[dict[str, Any]]:
    """Yield one row per step of the fixed run: clipping, schedule, groups of 1 to 3 micro-batches, one skip."""
    net = make_net()
    optimizer = AdamW(net.parameters(), lr=0.03, weight_decay=0.1, fused=True)
    guard = Guard(
        net, optimizer, precision=precision, on_unsupported="emulate", init_scale=2.0**10, growth_interval=6,
        max_grad_norm=0.5, schedule=lambda o: CosineAnnealingLR(o, T_max=STEPS), on_event=lambda event: None,
    )  # fmt: skip
    for step in range(1, STEPS + 1):
        for part in range(1 + step % 3):
            rows = 6 + 2 * part
            x = sines(rows, 8, start=1000 * step + 100 * part)
            y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
            if step == BAD_STEP and part == 0:
                x[0, 0] = torch.inf
            with guard.autocast():
                loss = nn.functional.cross_entropy(net(x).float(), y, reduction="sum")
            guard.backward(LossSum(loss, rows))
        guard.step()
        record = asdict(guard.read())
        yield {key: record[key] for key in KEYS}


def main() -> None:
    """Write the golden file of each precision."""
    torch.set_num_threads(1)
    for precision in PRECISIONS:
        lines = [json.dumps(row) for row in run(precision)]
        (FOLDER / f"{precision}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
