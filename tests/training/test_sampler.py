"""Claims about which samples form a batch."""

import random
import sys

import numpy as np
import pytest
import torch

from ampguard.errors import ConfigError, TaskError
from ampguard.training.data import PositionSampler, derive_seed, keyed_rng


def indices(**options) -> list[list[int]]:
    return [key.indices for key in PositionSampler(10, 4, **{"seed": 0, **options})]


def test_the_order_of_an_epoch_is_the_documented_permutation():
    generator = torch.Generator().manual_seed(derive_seed(3, 5))
    order = torch.randperm(10, generator=generator).tolist()
    assert indices(seed=3, epoch=5) == [order[:4], order[4:8], order[8:]]


def test_the_seed_is_the_documented_hash_and_fits_torch():
    assert derive_seed(0, 0) == 0x2BC42E553A894A51  # printf 0/0 | b2sum -l 64
    assert derive_seed(1, 23) != derive_seed(12, 3)
    torch.Generator().manual_seed(2**64 - 1)


def test_seeds_that_share_their_low_bits_give_other_orders():
    assert indices(seed=1) != indices(seed=1 + 2**32)


def test_every_start_is_the_tail_of_the_whole():
    for start in range(4):
        sampler = PositionSampler(10, 4, seed=0, epoch=2, start=start)
        assert [key.indices for key in sampler] == indices(epoch=2)[start:]
        assert [key.position for key in sampler] == list(range(start, 3))
        assert len(sampler) == 3 - start


def test_a_short_last_batch_is_kept_unless_it_is_to_be_dropped():
    assert [len(batch) for batch in indices()] == [4, 4, 2]
    assert [len(batch) for batch in indices(drop_last=True)] == [4, 4]


def test_without_shuffling_the_order_is_the_datas():
    assert indices(shuffle=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("size", "batch_size", "start", "error", "said"),
    [
        (0, 4, 0, TaskError, "0 samples"),
        (10, 11, 0, ConfigError, "batch_size is 11, but train_data has only 10"),
        (10, 0, 0, ConfigError, "batch_size is 0"),
        (10, 4, 4, TaskError, "batch 4 of the epoch"),
    ],
)
def test_sizes_that_cannot_work_are_refused(size, batch_size, start, error, said):
    with pytest.raises(error, match=said):
        PositionSampler(size, batch_size, seed=0, start=start)


def draws() -> list[float]:
    return [torch.rand(()).item(), random.random(), np.random.rand(), np.random.standard_normal()]


def test_keyed_draws_repeat_and_leave_no_trace():
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    undisturbed = draws() + draws()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    # NumPy draws normals in pairs, so the first call leaves one pending while the key is in force.
    around = draws()
    with keyed_rng(1, 2):
        inside = draws()
    assert around + draws() == undisturbed
    with keyed_rng(1, 2):
        assert draws() == inside
    with keyed_rng(1, 3):
        assert all(a != b for a, b in zip(draws(), inside, strict=True))


def test_an_inner_key_leaves_the_outer_ones_draws_alone():
    with keyed_rng(1):
        alone = draws() + draws()
    with keyed_rng(1):
        around = draws()
        with keyed_rng(2):
            draws()
        around += draws()
    assert around == alone


def test_the_callers_generators_come_back_after_an_error():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with pytest.raises(KeyError), keyed_rng(1):
        draws()
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_numpy_is_not_needed(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy")
    with keyed_rng(1):
        assert isinstance(torch.rand(()).item(), float)
    assert "numpy" not in sys.modules
