"""NumPy's global generator is as it was, pending draw included, and what is drawn inside is the seed's alone."""

import numpy as np
import pytest

from ampguard.training.data import numpy_rng
from ampguard.training.data.numpy_rng import numpy_seeded


@pytest.fixture(params=["fast", "slow"], autouse=True)
def way(request, monkeypatch):
    if request.param == "slow":
        monkeypatch.setattr(numpy_rng, "_is_as_known", lambda kind: False)


def test_the_layout_is_known_here():
    assert numpy_rng._is_as_known(np.random.MT19937) or numpy_rng._is_as_known.__name__ == "<lambda>"


@pytest.mark.parametrize("before", [0, 1, 2, 3], ids=lambda n: f"{n} normal draws before")
@pytest.mark.parametrize("inside", [0, 1, 2], ids=lambda n: f"{n} inside")
def test_the_callers_stream_goes_on_as_if_nothing_had_been(before, inside):
    def stream(*, seeded):
        np.random.seed(7)
        values = [np.random.standard_normal() for _ in range(before)]
        if seeded:
            with numpy_seeded(3):
                np.random.standard_normal(inside)
                np.random.random(5)
        return [*values, np.random.standard_normal(), np.random.random(), *np.random.standard_normal(700)]

    assert stream(seeded=True) == stream(seeded=False)


@pytest.mark.parametrize("pending", [0, 1])
def test_what_is_drawn_inside_is_the_seeds_alone(pending):
    np.random.standard_normal(pending)
    with numpy_seeded(11):
        drawn = [*np.random.standard_normal(3), np.random.random()]
    np.random.seed(11)
    assert drawn == [*np.random.standard_normal(3), np.random.random()]


def test_an_error_inside_restores_too():
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    with pytest.raises(KeyError), numpy_seeded(1):
        np.random.random(2)
        raise KeyError
    assert (np.random.random(3) == expected).all()


def test_another_bit_generator_is_restored_the_slow_way(monkeypatch):
    monkeypatch.undo()
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.MT19937(3))
    try:
        expected = np.random.get_state()[1].copy()
        with numpy_seeded(1):
            np.random.random(4)
        assert (np.random.get_state()[1] == expected).all()
    finally:
        np.random.set_bit_generator(before)
