import json
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ampguard.checkpointing.manifest import DamagedError
from ampguard.checkpointing.parts import MODEL, STATE, read_parts, write_parts
from ampguard.errors import CheckpointError


def round_trip(folder, model, **rest):
    write_parts(folder, {"model": model, **rest})
    return read_parts(folder)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert right[key].dtype == value.dtype, key
        assert right[key].shape == value.shape, key
        assert right[key].equal(value), key


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)


def test_tied_weights_are_stored_once_and_come_back_under_every_name(tmp_path):
    model = Tied().state_dict()
    back = round_trip(tmp_path, model)["model"]
    assert_same(model, back)
    assert back["head.weight"] is back["embed.weight"]
    assert "head.weight" not in load_file(tmp_path / MODEL)


def test_any_tool_reads_the_weights(tmp_path):
    model = nn.Linear(3, 2).state_dict()
    write_parts(tmp_path, {"model": model})
    assert_same(dict(model), load_file(tmp_path / MODEL))


DTYPES = ["float64", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool", "complex64", "uint16"]


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in DTYPES])
def test_every_dtype_comes_back_bit_for_bit(tmp_path, dtype):
    words = torch.arange(48, dtype=torch.uint8) % 2 if dtype == torch.bool else torch.arange(48, dtype=torch.uint8)
    back = round_trip(tmp_path, {"x": words.view(dtype)})["model"]["x"]
    assert back.dtype == dtype
    assert back.view(torch.uint8).equal(words)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)])
def test_every_shape_comes_back(tmp_path, shape):
    assert_same({"x": torch.ones(shape)}, round_trip(tmp_path, {"x": torch.ones(shape)})["model"])


def test_views_of_one_storage_come_back_with_their_own_elements(tmp_path):
    base = torch.arange(24.0)
    model = {
        "whole": base,
        "slice": base[3:9],
        "overlap": base[5:12],
        "transposed": base.view(4, 6).t(),
        "reshaped": base.view(4, 6),
        "square": base[:16].view(4, 4),
        "square_transposed": base[:16].view(4, 4).t(),
        "strided": base[::2],
        "expanded": base[:1].expand(5),
        "empty": base[:0],
        "also_empty": base[:0],
    }
    assert_same(model, round_trip(tmp_path, model)["model"])


def test_disjoint_slices_of_a_flat_buffer_cost_no_copy(tmp_path, monkeypatch):
    flat = torch.arange(8.0)
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: pytest.fail("copied"))
    write_parts(tmp_path, {"model": {"b": flat[4:], "a": flat[:4]}})
    assert load_file(tmp_path / MODEL)["b"].equal(flat[4:])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_what_safetensors_cannot_hold_stands_with_the_rest(tmp_path):
    sparse = torch.eye(3).to_sparse()
    back = round_trip(tmp_path, {"w": torch.ones(2), "s": sparse, "_extra_state": {"scale": [1.5, None]}})["model"]
    assert back["s"].to_dense().equal(torch.eye(3))
    assert back["_extra_state"] == {"scale": [1.5, None]}


def test_plain_values_come_back_with_their_types(tmp_path):
    rest = {
        "lr": 0.1 + 0.2,
        "betas": (0.9, 0.999),
        "large": 2**200,
        "none": None,
        "step": torch.tensor(3.0),
        "nested": OrderedDict(a=[{"b": "é"}], c={1: True}),
        "dtype": torch.bfloat16,
    }
    back = round_trip(tmp_path, {}, **rest)
    assert back.pop("step").equal(rest.pop("step"))
    assert back.pop("model") == {}
    assert back == rest
    assert type(back["betas"]) is tuple


def test_parameters_lose_their_graph_and_keep_their_values(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    back = round_trip(tmp_path, {"w": weight * 2, "p": weight})["model"]
    assert back["w"].tolist() == [2.0, 2.0]
    assert not back["p"].requires_grad


class Foreign:
    pass


@pytest.mark.parametrize("value", [Foreign(), Foreign, lambda: None, {"deep": [Foreign()]}])
def test_a_state_that_could_not_be_read_back_is_refused_at_once(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"cannot be saved: .*A checkpoint takes tensors, numbers"):
        write_parts(tmp_path, {"model": {}, "value": value})


class Broken:
    def __reduce_ex__(self, protocol):
        raise RuntimeError("a device error")


def test_an_error_that_is_not_of_the_disk_keeps_its_type(tmp_path):
    with pytest.raises(RuntimeError, match="a device error") as caught:
        write_parts(tmp_path, {"model": {}, "x": Broken()})
    assert not isinstance(caught.value, OSError)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", pickle.dumps({"model": {}}, protocol=2)])
def test_a_state_that_is_no_archive_of_torch_is_malformed(tmp_path, content):
    write_parts(tmp_path, {"model": {}})
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(DamagedError, match=f"{STATE} is malformed"):
        read_parts(tmp_path)


@pytest.mark.parametrize("content", [[1], 3.5, {"model": [1]}, {}])
def test_an_archive_that_holds_no_state_is_malformed(tmp_path, content):
    write_parts(tmp_path, {"model": {}})
    torch.save(content, tmp_path / STATE)
    with pytest.raises(DamagedError, match=f"{STATE} is malformed"):
        read_parts(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08" + b"\0" * 7 + b"{}      "])
def test_weights_that_safetensors_did_not_write_are_malformed(tmp_path, content):
    write_parts(tmp_path, {"model": {}})
    (tmp_path / MODEL).write_bytes(content)
    with pytest.raises(DamagedError, match=MODEL):
        read_parts(tmp_path)


def test_the_aliases_stand_in_the_header_as_text(tmp_path):
    write_parts(tmp_path, {"model": Tied().state_dict()})
    raw = (tmp_path / MODEL).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"]["format"] == "pt"
    assert json.loads(header["__metadata__"]["aliases"]) == {"head.weight": "embed.weight"}
