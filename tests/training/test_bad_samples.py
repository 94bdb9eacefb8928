import math
from pathlib import Path

import pytest
import torch

from ampguard.tasks import find_task
from ampguard.training.bad_samples import MOST, bad_samples
from ampguard.training.data import open_train_data

TASK = Path(__file__).with_name("replay_task.py")


def data(kind="samples"):
    return open_train_data(find_task(f"{TASK}:build")(kind=kind), batch_size=16, seed=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e5m2, torch.complex64])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_and_their_places_in_the_dataset_are_told(dtype, value):
    images = torch.zeros(16, 2, 3)
    images[[3, 9], 1, 2] = value
    found = bad_samples({"x": [images.to(dtype)], "y": torch.arange(16)}, data(), 1, 2)
    places = data().indices(1, 2)
    assert found.rows == (3, 9) and found.indices == (places[3], places[9])
    assert str(found) == f"sample 3, 9 of the batch (number {places[3]}, {places[9]} of the dataset)"


def test_masks_large_numbers_and_labels_are_no_bad_samples():
    batch = [torch.tensor([1e300, -math.inf], dtype=torch.float64), torch.tensor(math.nan), torch.arange(2), "text"]
    assert bad_samples(batch, data(), 0, 0) is None


def test_data_without_an_order_has_rows_only():
    assert bad_samples(torch.full((2, 1), math.nan), data("list"), 0, 0).indices == ()


def test_many_are_cut_off():
    assert len(bad_samples(torch.full((99, 1), math.nan), data("list"), 0, 0).rows) == MOST
