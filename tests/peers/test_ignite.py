"""Ignite itself, and ours on the same case: the fact M5 of docs/peers.md."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import AdamW

from ampguard import Guard

FIXED = "Ignite has fixed this: update docs/peers.md ({})"
BATCH = (torch.full((8, 4), float("inf")), torch.zeros(8, 1))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))


# Ignite's step always enters autocast for CUDA, which says on a CPU that it does nothing.
@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_skipped_step_leaves_batch_norm_alone_in_ours_and_not_in_ignite():
    # Here and not above: importing Ignite warns, and warnings are errors while tests are collected.
    from ignite.engine import Engine, supervised_training_step_amp

    model, scaler = normed(), torch.amp.GradScaler("cpu")
    optimizer = AdamW(model.parameters(), fused=True)
    Engine(supervised_training_step_amp(model, optimizer, functional.mse_loss, "cpu", scaler=scaler)).run([BATCH])
    assert scaler.get_scale() == 2.0**15
    assert torch.equal(model[1].weight, normed()[1].weight)
    assert not model[0].running_mean.isfinite().all(), FIXED.format("M5")

    model = normed()
    guard = Guard(model, AdamW(model.parameters(), fused=True), precision="fp32")
    with guard.autocast():
        loss = functional.mse_loss(model(BATCH[0]), BATCH[1])
    guard.backward(loss)
    assert not guard.step()
    assert torch.equal(model[1].weight, normed()[1].weight)
    assert torch.equal(model[0].running_mean, torch.zeros(4))
