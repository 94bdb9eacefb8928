"""A batch as JSON and tensors, and back: what a replay bundle keeps of it, without a pickle.

    {"kind": "tuple", "items": [{"kind": "tensor", "index": 0}, {"kind": "dict", "items": [[key, node], ...]}]}

Each node says its `kind`: tensor, array (of NumPy), list, tuple, dict, dataclass, namedtuple, value, float, bytes.
Tensors stand apart, by number: no name of the batch becomes the name of anything. A class is named and never imported
or called: reading looks for it among the modules that are loaded already, takes dataclasses and named tuples only, and
sets their fields.

Left out: whatever else a batch may hold (other mappings, sparse tensors, objects), of which each leaf is listed, and
strides: a tensor comes back contiguous, or channels last.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ampguard.errors import InputError

Node = dict[str, Any]

DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
"""Dtypes that every supported safetensors (>= 0.5) can hold. Source: safetensors.torch._TYPES."""


ALIGNMENT = 64
"""Bytes that torch aligns what it allocates on a CPU to. Source: c10/core/alignment.h, gAlignment."""


class TreeError(InputError):
    """A tree is not one that this file writes, or names a class that is not there."""

    kind = "bundle"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat:
    """A batch taken apart."""

    tree: Node
    """Its structure, plain JSON."""
    tensors: Mapping[str, Tensor]
    """Its tensors as they are, by number."""
    lost: Sequence[str]
    """Each leaf that could not be kept, with its place: "[1].meta: a Path"."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def flatten(batch: Any) -> Flat:
    """Take a batch apart. Sync: none; its tensors are not copied."""
    taker = _Taker()
    tree = taker.take(batch, "")
    return Flat(tree=tree, tensors=taker.tensors, lost=tuple(taker.lost))


class _Taker:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.lost: list[str] = []

    def take(self, node: Any, place: str) -> Node:
        if isinstance(node, bool | int | str | None):
            # A subclass, an enum for one, is more than its value.
            return {"kind": "value", "value": node} if _is_plain(node) else self._lose(node, place)
        if type(node) is float:
            return {"kind": "float", "value": node.hex()}
        if type(node) is bytes:
            return {"kind": "bytes", "value": node.hex()}
        if isinstance(node, Tensor | np.ndarray):
            return self._take_tensor(node, place)
        return self._take_container(node, place)

    def _take_tensor(self, node: Any, place: str) -> Node:
        tensor, kind = node, "tensor"
        if type(node) is np.ndarray:
            tensor, kind = _from_array(node), "array"
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            return self._lose(node, place)
        index = str(len(self.tensors))
        self.tensors[index] = tensor.detach()
        channels_last = tensor.dim() == 4 and not tensor.is_contiguous()
        channels_last = channels_last and tensor.is_contiguous(memory_format=torch.channels_last)
        layout = {"channels_last": channels_last, "offset_bytes": _offset_bytes(tensor)}
        return {"kind": kind, "index": index, **{name: value for name, value in layout.items() if value}}

    def _take_container(self, node: Any, place: str) -> Node:
        if type(node) in (list, tuple):
            items = [self.take(child, f"{place}[{index}]") for index, child in enumerate(node)]
            return {"kind": type(node).__name__, "items": items}
        if type(node) is dict:
            return {"kind": "dict", "items": [self._take_item(key, child, place) for key, child in node.items()]}
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            return self._take_fields("dataclass", node, [field.name for field in dataclasses.fields(node)], place)
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            return self._take_fields("namedtuple", node, node._fields, place)
        return self._lose(node, place)

    def _take_item(self, key: Any, child: Any, place: str) -> list[Node]:
        if not _is_plain(key) and type(key) is not float:
            return [self._lose(key, f"{place}, a key"), self.take(child, f"{place}[{key!r}]")]
        return [self.take(key, place), self.take(child, f"{place}[{key!r}]")]

    def _take_fields(self, kind: str, node: Any, names: Sequence[str], place: str) -> Node:
        fields = {name: self.take(getattr(node, name, None), f"{place}.{name}") for name in names}
        return {"kind": kind, "class": f"{type(node).__module__}:{type(node).__qualname__}", "fields": fields}

    def _lose(self, node: Any, place: str) -> Node:
        kind = type(node).__name__
        self.lost.append(f"{place or 'the batch itself'}: a {kind}")
        return {"kind": "lost", "type": kind}


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put a batch together again.

    Args:
        tree: As `flatten` returned it; it may come from anybody.
        tensors: Its tensors.

    Raises:
        TreeError: It is no such tree, a leaf was lost, or a class is not among the loaded modules. Nothing was run.
    """
    try:
        return _make(tree, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise TreeError(f"the batch's structure is damaged ({type(error).__name__}: {error}).") from error


def _make(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    make = _LEAVES.get(node["kind"])
    return make(node) if make is not None else _MAKERS[node["kind"]](node, tensors)


def _make_value(node: Node) -> Any:
    if not _is_plain(node["value"]):
        raise ValueError("a value is no value")
    return node["value"]


def _make_tensor(node: Node, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a copy that lies in memory as the tensor did: kernels split their sums by alignment."""
    tensor, offset = tensors[node["index"]], node.get("offset_bytes", 0)
    if not 0 <= offset < ALIGNMENT or offset % tensor.itemsize:
        raise ValueError(f"{offset} is no offset of a {tensor.dtype}")
    if node.get("channels_last"):
        return tensor.clone(memory_format=torch.channels_last)
    skipped = offset // tensor.itemsize
    return torch.empty(skipped + tensor.numel(), dtype=tensor.dtype)[skipped:].view(tensor.shape).copy_(tensor)


def _make_dict(node: Node, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {_make(key, tensors): _make(child, tensors) for key, child in node["items"]}


def _make_dataclass(node: Node, tensors: Mapping[str, Tensor]) -> Any:
    cls = _known_class(node["class"])
    if not dataclasses.is_dataclass(cls) or {field.name for field in dataclasses.fields(cls)} != node["fields"].keys():
        raise _no_such_class(node["class"])
    made = object.__new__(cls)
    for name, child in node["fields"].items():
        # Frozen ones too; and no __init__ of anybody's is called.
        object.__setattr__(made, name, _make(child, tensors))
    return made


def _make_namedtuple(node: Node, tensors: Mapping[str, Tensor]) -> Any:
    cls = _known_class(node["class"])
    if not issubclass(cls, tuple) or list(getattr(cls, "_fields", ())) != list(node["fields"]):
        raise _no_such_class(node["class"])
    return tuple.__new__(cls, [_make(child, tensors) for child in node["fields"].values()])


def _make_lost(node: Node) -> Any:
    raise TreeError(f"the batch holds a {node['type']}, which a bundle cannot keep.")


_LEAVES: Mapping[str, Callable[[Node], Any]] = {
    "value": _make_value,
    "float": lambda node: float.fromhex(node["value"]),
    "bytes": lambda node: bytes.fromhex(node["value"]),
    "lost": _make_lost,
}
_MAKERS: Mapping[str, Callable[[Node, Mapping[str, Tensor]], Any]] = {
    "tensor": _make_tensor,
    "array": lambda node, tensors: tensors[node["index"]].clone().numpy(),
    "list": lambda node, tensors: [_make(child, tensors) for child in node["items"]],
    "tuple": lambda node, tensors: tuple(_make(child, tensors) for child in node["items"]),
    "dict": _make_dict,
    "dataclass": _make_dataclass,
    "namedtuple": _make_namedtuple,
}


def _known_class(name: str) -> type:
    """Return a class of a loaded module. Looked up in namespaces, so that no `__getattr__` runs."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if not isinstance(found, type):
        raise _no_such_class(name)
    return found


def _no_such_class(name: str) -> TreeError:
    return TreeError(f"the batch is of the class {name!r}, which the Task's own modules do not define so.")


def _from_array(array: "np.ndarray[Any, Any]") -> Tensor | None:
    try:
        # A copy: an array may be read-only, or run backwards.
        return torch.from_numpy(np.ascontiguousarray(array).copy()).reshape(array.shape)
    except TypeError:
        # Texts, objects, dtypes that torch has not.
        return None


def _offset_bytes(tensor: Tensor) -> int:
    """Return how far a tensor on the CPU lies behind where torch would have put it."""
    return tensor.data_ptr() % ALIGNMENT if tensor.device.type == "cpu" and tensor.numel() else 0


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, str)


def same(one: Any, other: Any) -> bool:
    """Return whether two batches are equal bit by bit: structure, dtypes, values; NaN equals NaN of the same bits."""
    left, right = flatten(one), flatten(other)
    if _shape(left.tree) != _shape(right.tree) or left.lost or right.lost:
        return False
    return all(_same_bits(tensor, right.tensors[index]) for index, tensor in left.tensors.items())


def _shape(node: Any) -> Any:
    """Return a tree without where its tensors lie in memory."""
    if isinstance(node, dict):
        return {name: _shape(child) for name, child in node.items() if name not in ("channels_last", "offset_bytes")}
    return [_shape(child) for child in node] if isinstance(node, list) else node


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return math.prod(one.shape) == 0 or torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
