"""The global generators are as they were, pending draws included, and what is drawn inside is the seed's alone."""

import random

import numpy as np
import pytest

from ampguard.training.data import host_rng
from ampguard.training.data.host_rng import host_seeded

DRAWS = {
    "python": (random.seed, lambda: random.gauss(0, 1), random.random),
    "numpy": (np.random.seed, np.random.standard_normal, np.random.random),
}
"""How each generator is seeded, draws one of a pair, and draws evenly."""


@pytest.fixture(params=["fast", "slow"], autouse=True)
def way(request, monkeypatch):
    if request.param == "slow":
        monkeypatch.setattr(host_rng, "_python_is_as_known", lambda: False)
        monkeypatch.setattr(host_rng, "_numpy_is_as_known", lambda kind: False)


def test_the_layouts_are_known_here(monkeypatch):
    monkeypatch.undo()
    assert host_rng._python_is_as_known()
    assert host_rng._numpy_is_as_known(np.random.MT19937)
    assert not host_rng._numpy_is_as_known(np.random.PCG64)


@pytest.mark.parametrize("before", [0, 1, 2, 3], ids=lambda n: f"{n} normal draws before")
@pytest.mark.parametrize("inside", [0, 1, 2], ids=lambda n: f"{n} inside")
@pytest.mark.parametrize("kind", DRAWS)
def test_the_callers_stream_goes_on_as_if_nothing_had_been(kind, before, inside):
    seed, normal, even = DRAWS[kind]

    def stream(*, seeded):
        seed(7)
        values = [normal() for _ in range(before)]
        if seeded:
            with host_seeded(3, 3):
                for _ in range(inside):
                    normal()
                even()
        return [*values, normal(), even(), *(normal() for _ in range(700))]

    assert stream(seeded=True) == stream(seeded=False)


@pytest.mark.parametrize("pending", [0, 1])
@pytest.mark.parametrize("kind", DRAWS)
def test_what_is_drawn_inside_is_the_seeds_alone(kind, pending):
    seed, normal, even = DRAWS[kind]
    for _ in range(pending):
        normal()
    with host_seeded(11, 11):
        drawn = [normal(), normal(), normal(), even()]
    seed(11)
    assert drawn == [normal(), normal(), normal(), even()]


@pytest.mark.parametrize("kind", DRAWS)
def test_an_error_inside_restores_too(kind):
    seed, _, even = DRAWS[kind]
    seed(5)
    expected = [even() for _ in range(3)]
    seed(5)
    with pytest.raises(KeyError), host_seeded(1, 1):
        even()
        raise KeyError
    assert [even() for _ in range(3)] == expected
