import dataclasses
import enum
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from ampguard.health.batch_tree import TreeError, flatten, same, unflatten


@dataclasses.dataclass(frozen=True)
class Frozen:
    image: object
    label: int

    def __post_init__(self):
        if not isinstance(self.label, int):
            raise ValueError("never called when a bundle is read")


class Pair(NamedTuple):
    x: object
    y: object


class Colour(enum.IntEnum):
    RED = 1


def again(batch):
    flat = flatten(batch)
    assert not flat.lost
    return unflatten(json.loads(json.dumps(flat.tree, allow_nan=False)), flat.tensors)


def test_a_nested_batch_comes_back_bit_by_bit():
    payload = torch.tensor([0x7FC00001, 0x7F800000, -1], dtype=torch.int32).view(torch.float32)
    batch = {
        "x": [payload, torch.randn(2, 3).bfloat16(), torch.randn(4).to(torch.float8_e4m3fn)],
        3: (torch.arange(5), torch.tensor(True), torch.empty(0, 7)),
        "pair": Pair(torch.ones(2), "text"),
        "frozen": Frozen(image=torch.zeros(1), label=7),
        "plain": [None, True, 1, 2**70, 0.1, -math.inf, math.nan, "é", b"\x00\xff"],
        1.5: (),
    }
    found = again(batch)
    assert same(found, batch)
    assert list(found) == list(batch) and type(found["frozen"]) is Frozen and type(found["pair"]) is Pair
    assert found["plain"][1] is True and type(found["plain"][2]) is int and math.isnan(found["plain"][6])
    assert torch.equal(found["x"][0].view(torch.int32), payload.view(torch.int32))


def test_arrays_come_back_as_arrays():
    backwards = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    (found,) = again([backwards])
    assert type(found) is np.ndarray and np.array_equal(found, backwards) and found.dtype == backwards.dtype


def test_channels_last_stays_channels_last():
    (image,) = again([torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)])
    assert image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()


def test_a_tensor_lies_where_it_lay():
    """Kernels split their sums by alignment: the last bit of a loss depends on it."""
    base = torch.arange(64.0)
    batch = [base, base[3:], base[16:20], torch.arange(9, dtype=torch.uint8)[5:]]
    found = again(batch)
    assert same(found, batch)
    assert [x.data_ptr() % 64 for x in found] == [x.data_ptr() % 64 for x in batch] == [0, 12, 0, 5]


def test_each_leaf_that_cannot_be_kept_is_named():
    sparse = torch.eye(3).to_sparse()
    flat = flatten({"a": [1, Path("x")], "b": {"c": sparse}, Path("k"): 1, "e": Colour.RED, "s": np.array(["t"])})
    assert [line.rpartition(": ")[0] for line in flat.lost] == ["['a'][1]", "['b']['c']", ", a key", "['e']", "['s']"]
    assert flat.lost[0].endswith("a PosixPath")
    with pytest.raises(TreeError, match="cannot keep"):
        unflatten(flat.tree, flat.tensors)


def test_a_parameter_or_another_kind_of_tensor_is_no_plain_tensor():
    assert flatten([torch.nn.Parameter(torch.ones(1))]).lost == ("[0]: a Parameter",)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        {},
        {"kind": "pickle"},
        {"kind": ["list"]},
        {"kind": "value", "value": [1]},
        {"kind": "float", "value": "x"},
        {"kind": "float", "value": 1},
        {"kind": "bytes", "value": "zz"},
        {"kind": "tensor", "index": "../../etc/passwd"},
        {"kind": "tensor", "index": ["0"]},
        {"kind": "tensor", "index": "0", "offset_bytes": 1},
        {"kind": "tensor", "index": "0", "offset_bytes": 2**40},
        {"kind": "tensor", "index": "0", "offset_bytes": "0"},
        {"kind": "list", "items": 3},
        {"kind": "dict", "items": [[{"kind": "value", "value": 1}]]},
        {"kind": "dict", "items": [[{"kind": "list", "items": []}, {"kind": "value", "value": 1}]]},
        {"kind": "dataclass", "class": "os:system", "fields": {"command": {"kind": "value", "value": "x"}}},
        {"kind": "dataclass", "class": "subprocess:Popen", "fields": {}},
        {"kind": "dataclass", "class": "../x:y", "fields": {}},
        {"kind": "dataclass", "class": 3, "fields": {}},
        {"kind": "dataclass", "class": f"{__name__}:Frozen", "fields": {"image": {"kind": "value", "value": 1}}},
        {"kind": "dataclass", "class": f"{__name__}:Pair", "fields": {}},
        {"kind": "namedtuple", "class": f"{__name__}:Frozen", "fields": {}},
        {"kind": "namedtuple", "class": f"{__name__}:Pair.__new__", "fields": {}},
        {"kind": "namedtuple", "class": "builtins:str", "fields": {}},
    ],
)
def test_a_structure_that_is_not_ours_is_refused(tree):
    with pytest.raises(TreeError):
        unflatten(tree, {"0": torch.ones(1)})


def test_a_structure_without_end_is_refused():
    tree = {"kind": "value", "value": 1}
    for _ in range(5_000):
        tree = {"kind": "list", "items": [tree]}
    with pytest.raises(TreeError, match="damaged"):
        unflatten(tree, {})
    while "items" in tree:
        # Freed from the top, or the interpreter runs out of stack.
        tree = tree["items"].pop()


def test_a_class_is_not_imported_for_a_structure():
    assert "this" not in sys.modules
    with pytest.raises(TreeError, match="this:Zen"):
        unflatten({"kind": "dataclass", "class": "this:Zen", "fields": {}}, {})
    assert "this" not in sys.modules


def test_a_batch_is_not_the_same_as_one_of_other_bits():
    zero = torch.tensor([0.0])
    assert same([zero], [zero.clone()])
    for other in ([-zero], [zero.double()], (zero,), [zero, zero], [torch.zeros(1, 1)]):
        assert not same([zero], other)
