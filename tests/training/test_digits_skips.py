"""On the real network with BatchNorm: a skipped step leaves every bit as it was, and costs the run nothing else."""

import copy

import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import ExponentialLR

from ampguard.engine import Guard
from ampguard.tasks import find_task

PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed")
SCALE = 2.0**12


def make(precision, scale=SCALE):
    task = find_task("digits")()
    torch.manual_seed(0)
    model = task.model()
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    guard = Guard(
        model,
        optimizer,
        precision=precision,
        on_unsupported="emulate",
        max_grad_norm=1.0,
        ema=0.9,
        schedule=lambda o: ExponentialLR(o, 0.9),
        init_scale=scale,
    )
    return task, model, optimizer, guard


def batches(task, count, size=4):
    images, labels = task.train_data.tensors
    return [(images[i * size : (i + 1) * size].clone(), labels[i * size : (i + 1) * size]) for i in range(count)]


def state(model, optimizer, guard):
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": guard.state_dict()["ema"]}
    return copy.deepcopy(kept)


def flat(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from flat(item, f"{path}.{index}")
    else:
        yield path, value


def differing(a, b):
    """Names of what is not bitwise equal."""
    left, right = dict(flat(a)), dict(flat(b))
    assert left.keys() == right.keys()
    return [
        name
        for name, value in left.items()
        if not (torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name])
    ]


def attempt(task, model, guard, batch):
    with guard.autocast():
        loss = task.loss(model, batch)
    guard.backward(loss)
    return bool(guard.step())


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level("ERROR", logger="ampguard")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inf_in_the_batch_leaves_every_bit_as_it_was(precision):
    task, model, optimizer, guard = make(precision)
    good = batches(task, 3)
    assert attempt(task, model, guard, good[0])
    before = state(model, optimizer, guard)
    good[1][0][0, 0, 3, 3] = torch.inf
    assert not attempt(task, model, guard, good[1])
    assert differing(before, state(model, optimizer, guard)) == []
    assert attempt(task, model, guard, good[2])
    assert differing(before, state(model, optimizer, guard)) != []


def test_an_fp16_overflow_leaves_every_bit_as_it_was():
    task, model, optimizer, guard = make("fp16-mixed")
    good = batches(task, 3)
    assert attempt(task, model, guard, good[0])
    before = state(model, optimizer, guard)
    guard._scale.value.fill_(2.0**40)
    assert not attempt(task, model, guard, good[1])
    assert differing(before, state(model, optimizer, guard)) == []


@pytest.mark.parametrize(
    ("precision", "bad"), [("fp32", (0, 3, 4)), ("bf16-mixed", (0, 3, 4)), ("fp16-mixed", (0, 1, 2))]
)
def test_a_run_with_skipped_batches_equals_the_run_that_never_saw_them(precision, bad):
    """In fp16 each skip halves the scale: the skips come first there, and the other run begins where they end."""
    task, model, optimizer, guard = make(precision)
    every = batches(task, 7)
    for index in bad:
        every[index][0].fill_(torch.inf)
    applied = [attempt(task, model, guard, batch) for batch in every]
    assert applied == [index not in bad for index in range(7)]
    with_skips = state(model, optimizer, guard)
    task, model, optimizer, guard = make(precision, scale=SCALE / 2 ** len(bad))
    for index in sorted(set(range(7)) - set(bad)):
        assert attempt(task, model, guard, every[index])
    assert differing(with_skips, state(model, optimizer, guard)) == []
