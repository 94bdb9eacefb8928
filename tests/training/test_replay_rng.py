import random

import numpy as np
import pytest
import torch

from ampguard.checkpointing import capture_rng
from ampguard.errors import InputError
from ampguard.training.replay_rng import RngReader, restore_state

CPU = torch.device("cpu")


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(), torch.rand(3).tolist()


def stir(step):
    """Leave the generators with and without half a pair of normal draws."""
    if step % 2:
        random.gauss(0, 1)
        np.random.standard_normal()
    if step % 3 == 0:
        np.random.rand()
        random.random()
    torch.rand(step)


def test_every_state_that_was_read_draws_the_same_again():
    reader, kept = RngReader(CPU), []
    for step in range(8):
        stir(step)
        kept.append((reader.read().as_dict(CPU), capture_rng()))
    expected = []
    from ampguard.checkpointing import restore_rng

    for _, slow in kept:
        restore_rng(slow)
        expected.append([draw(), draw()])
    for (fast, _), numbers in zip(kept, expected, strict=True):
        assert restore_state(fast, CPU) == ""
        assert [draw(), draw()] == numbers


def test_a_pending_draw_of_numpy_is_seen_when_it_is_used_up():
    reader = RngReader(CPU)
    np.random.standard_normal()
    pending = reader.read()
    assert pending.numpy.pending is not None
    # Moves no word of the generator.
    np.random.standard_normal()
    used = reader.read()
    assert used.numpy.pending is None and used.numpy.words == pending.numpy.words


def test_equal_words_are_kept_once():
    reader = RngReader(CPU)
    one, other = reader.read(), reader.read()
    assert one.python is other.python and one.numpy is other.numpy


def test_reading_draws_nothing():
    before = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    reader = RngReader(CPU)
    reader.read(), reader.read()
    assert draw() == before


@pytest.mark.parametrize("pending", [True, False])
def test_without_the_known_layout_the_states_are_the_same(monkeypatch, pending):
    if pending:
        random.gauss(0, 1)
        np.random.standard_normal()
    known = RngReader(CPU).read().as_dict(CPU)
    monkeypatch.setattr("ampguard.training.data.host_rng._python_is_as_known", lambda: False)
    monkeypatch.setattr("ampguard.training.data.host_rng._numpy_is_as_known", lambda kind: False)
    assert RngReader(CPU).read().as_dict(CPU) == known


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("torch"),
        lambda kept: kept.update(torch="00"),
        lambda kept: kept.update(torch="zz"),
        lambda kept: kept["python"].update(words="00"),
        lambda kept: kept["python"].update(position=10**9),
        lambda kept: kept["python"].update(position="1"),
        lambda kept: kept["numpy"].update(pending="x"),
        lambda kept: kept.update(numpy=[1]),
        lambda kept: kept.update(device={"kind": "cpu", "state": 1}),
    ],
)
def test_a_damaged_state_sets_no_generator(change):
    kept = RngReader(CPU).read().as_dict(CPU)
    change(kept)
    before = capture_rng()
    with pytest.raises(InputError, match="states are damaged"):
        restore_state(kept, CPU)
    after = capture_rng()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["python"]["words"], after["python"]["words"])
    assert torch.equal(before["numpy"]["words"], after["numpy"]["words"])


def test_another_device_s_generator_is_named():
    kept = RngReader(CPU).read().as_dict(CPU)
    assert "of cuda" in restore_state({**kept, "device": {"kind": "cuda", "state": "00" * 16}}, CPU)
