"""Claims about what is done to a batch of any shape."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ampguard.errors import TaskError
from ampguard.training.data import leading, split, to_device

Pair = namedtuple("Pair", ["x", "y"])


@dataclass(frozen=True)
class Example:
    x: Tensor
    tag: str
    size: int = field(init=False, default=3)


def nested() -> dict:
    x = torch.arange(14.0).reshape(7, 2)
    return {
        "pair": Pair(x, [x + 1, {"deep": (x + 2,)}]),
        "example": Example(x + 3, "kept"),
        "ordered": OrderedDict(y=torch.arange(7)),
        "texts": list("abcdefg"),
        "lengths": tuple(range(7)),
        "array": np.arange(7),
        "scalar": torch.tensor(5.0),
        "name": "whole",
        "nothing": None,
    }


def joined(parts: list[dict]) -> dict:
    """The inverse of `split`, written out by hand for `nested`."""

    def cat(get):
        return torch.cat([get(part) for part in parts])

    return {
        "pair": Pair(
            cat(lambda p: p["pair"].x),
            [cat(lambda p: p["pair"].y[0]), {"deep": (cat(lambda p: p["pair"].y[1]["deep"][0]),)}],
        ),
        "example": Example(cat(lambda p: p["example"].x), parts[0]["example"].tag),
        "ordered": OrderedDict(y=cat(lambda p: p["ordered"]["y"])),
        "texts": [text for part in parts for text in part["texts"]],
        "lengths": tuple(length for part in parts for length in part["lengths"]),
        "array": np.concatenate([part["array"] for part in parts]),
        "scalar": parts[-1]["scalar"],
        "name": parts[-1]["name"],
        "nothing": parts[-1]["nothing"],
    }


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_split_and_joined_is_the_batch_again(size):
    parts = split(nested(), size)
    assert [leading(part) for part in parts] == [size] * (7 // size) + ([7 % size] if 7 % size else [])
    assert repr(joined(parts)) == repr(nested())
    assert all(type(part["ordered"]) is OrderedDict and type(part["pair"]) is Pair for part in parts)


def test_the_round_trip_sees_a_wrong_split():
    parts = split(nested(), 3)
    parts[1]["ordered"]["y"] = parts[0]["ordered"]["y"]
    assert repr(joined(parts)) != repr(nested())


def test_split_makes_views_and_a_small_batch_stays_the_object_it_is():
    batch = torch.arange(6.0)
    assert all(part._base is batch for part in split(batch, 2))
    assert split(batch, 6)[0] is batch


def test_a_mapping_that_is_no_dict_is_split_too():
    parts = split(UserDict(x=torch.arange(4), ids=[7, 8, 9, 10]), 3)
    assert type(parts[0]) is UserDict
    assert [part["x"].tolist() for part in parts] == [[0, 1, 2], [3]]
    assert [part["ids"] for part in parts] == [[7, 8, 9], [10]]


def test_tensors_of_other_lengths_are_never_cut_wrongly():
    with pytest.raises(TaskError, match=r"batch of 6 samples holds a tensor of shape \(4,\)"):
        split((torch.zeros(6, 2), torch.zeros(4)), 2)


@pytest.mark.parametrize("batch", [{}, ["text"], 3, None, np.zeros(3)])
def test_a_batch_without_tensors_is_an_error(batch):
    with pytest.raises(TaskError, match=f"type {type(batch).__name__} holds no tensor"):
        leading(batch)


def test_a_scalar_has_no_samples():
    with pytest.raises(TaskError, match="is a scalar"):
        leading((torch.tensor(1.0), torch.zeros(4)))


def test_a_batch_on_its_device_is_returned_as_it_is():
    batch = nested()
    assert to_device(batch, torch.device("cpu")) is batch


def test_every_tensor_moves_and_nothing_else_changes():
    batch = nested()
    moved = to_device(batch, torch.device("meta"))
    tensors = [moved["pair"].x, moved["pair"].y[1]["deep"][0], moved["example"].x, moved["ordered"]["y"]]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved["texts"] is batch["texts"]
    assert (moved["example"].tag, moved["example"].size) == ("kept", 3)
    assert batch["pair"].x.device.type == "cpu"


def test_an_object_that_moves_itself_is_left_to_it():
    packed = pack_sequence([torch.zeros(3), torch.zeros(2)])
    moved = to_device({"packed": packed}, torch.device("meta"))["packed"]
    assert isinstance(moved, PackedSequence)
    assert (moved.data.device.type, moved.batch_sizes.device.type) == ("meta", "cpu")
