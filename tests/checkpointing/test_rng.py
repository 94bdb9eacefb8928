import random
import sys

import numpy as np
import pytest
import torch

from ampguard.checkpointing import capture_rng, restore_rng
from ampguard.checkpointing.parts import read_parts, write_parts


@pytest.fixture(autouse=True)
def generators_as_before():
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)


DRAWS = {
    "python": lambda: [random.random() for _ in range(700)],
    "python gauss": lambda: [random.gauss(0, 1) for _ in range(5)],
    "numpy": lambda: np.random.random(700).tolist(),
    "numpy gauss": lambda: [np.random.standard_normal() for _ in range(5)],
    "numpy legacy gauss": lambda: [np.random.randn() for _ in range(5)],
    "torch": lambda: torch.rand(700).tolist(),
    "torch normal": lambda: [torch.randn(()).item() for _ in range(5)],
    "torch permutation": lambda: torch.randperm(50).tolist(),
}


def saved_and_read(tmp_path):
    write_parts(tmp_path, {"model": {}, "rng": capture_rng()})
    return read_parts(tmp_path)["rng"]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("already_drawn", [0, 1])
def test_draws_after_a_restore_are_bit_for_bit_the_same(tmp_path, name, already_drawn):
    """One gaussian already drawn leaves a second one cached in the generator."""
    draw = DRAWS[name]
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    for _ in range(already_drawn):
        random.gauss(0, 1)
        np.random.standard_normal()
        torch.randn(1)
    state = saved_and_read(tmp_path)
    first, other = draw(), draw()
    assert first != other
    restore_rng(state)
    assert draw() == first


def test_a_captured_state_does_not_move_with_the_generators():
    state = capture_rng()
    python, numpy, cpu = state["python"]["words"].clone(), state["numpy"]["words"].clone(), state["torch"].clone()
    for draw in DRAWS.values():
        draw()
    assert state["python"]["words"].equal(python)
    assert state["numpy"]["words"].equal(numpy)
    assert state["torch"].equal(cpu)


def test_without_numpy_its_generator_is_absent_and_skipped_loudly(monkeypatch, caplog):
    with_numpy = capture_rng()
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "numpy" not in capture_rng()
    restore_rng(with_numpy)
    assert "numpy is not installed here" in caplog.text


def test_a_checkpoint_without_numpy_leaves_its_generator():
    state = capture_rng()
    del state["numpy"]
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    restore_rng(state)
    assert (np.random.get_state()[1] == before).all()


def test_generators_of_a_device_that_is_not_here_are_skipped_loudly(caplog):
    if torch.accelerator.is_available():
        pytest.skip("needs a machine without an accelerator")
    assert "device" not in capture_rng()
    restore_rng({**capture_rng(), "device": {"kind": "cuda", "states": [torch.zeros(16, dtype=torch.uint8)]}})
    assert "generators of cuda, which this machine lacks" in caplog.text
