"""What is done to a batch whatever its shape: count its samples, cut it into micro-batches, move it to a device.

A batch is a tensor, or tensors nested in dicts, lists, tuples, named tuples and dataclasses. `_rebuild` walks that
nesting once for all; whatever is none of these is a leaf. The samples of a batch lie along the leading dimension.

Left out: batches without one leading dimension for all (packed sequences, lists of images of different sizes). They
train as a whole; cutting them is an error.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ampguard.errors import TaskError
from ampguard.task import Batch


def leading(batch: Batch) -> int:
    """Return the number of samples: the leading dimension of the batch's first tensor.

    Raises:
        TaskError: There is no tensor, or the first one is a scalar.
    """
    first = next(tensors_of(batch), None)
    if first is None:
        raise TaskError(
            f"a batch of type {type(batch).__name__} holds no tensor.",
            hint="Yield tensors, or tensors in dicts, lists, tuples or dataclasses; torch.as_tensor converts arrays.",
        )
    if first.dim() == 0:
        raise TaskError(
            "the first tensor of a batch is a scalar: the number of samples cannot be told.",
            hint="Put a tensor whose leading dimension counts samples first, or give Task.count.",
        )
    return first.shape[0]


def split(batch: Batch, micro_batch_size: int) -> list[Batch]:
    """Cut a batch along its leading dimension; tensors become views, the last piece may be shorter.

    Arrays are cut as tensors are, and so are lists of one value (no container, no tensor) a sample, such as texts.
    Scalars and every other value are copied along into each micro-batch.

    Args:
        batch: The samples of one optimizer step.
        micro_batch_size: Samples in a micro-batch, >= 1.

    Returns:
        The micro-batches, in order; `[batch]` itself when it is small enough.

    Raises:
        TaskError: There is no tensor, or the tensors differ in their leading dimension.
    """
    count = leading(batch)
    if count <= micro_batch_size:
        return [batch]
    starts = range(0, count, micro_batch_size)
    return [_rebuild(batch, _Cut(count, start, min(start + micro_batch_size, count))) for start in starts]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`; the same object when they all are there already.

    Pinned tensors are copied without waiting. Other objects that have a method `to` are moved by it.

    Sync: none from pinned memory; else as `Tensor.to`.
    """
    return _rebuild(batch, _Move(device))


class _Cut:
    """Samples start to stop out of `count`."""

    def __init__(self, count: int, start: int, stop: int) -> None:
        self._count, self._start, self._stop = count, start, stop

    def whole(self, node: Any) -> bool:
        """Return whether to take the node as a leaf: a list with one plain value for each sample."""
        if type(node) not in (list, tuple) or len(node) != self._count:
            return False
        return all(isinstance(value, str | bytes | int | float | bool | None) for value in node)

    def __call__(self, leaf: Any) -> Any:
        if type(leaf) in (list, tuple):
            return leaf[self._start : self._stop]
        shape: Sequence[int] = getattr(leaf, "shape", ())
        if len(shape) == 0:
            return leaf
        if shape[0] != self._count:
            raise TaskError(
                f"a batch of {self._count} samples holds a tensor of shape {tuple(shape)}: it cannot be cut into "
                "micro-batches.",
                hint="Leave micro_batch_size unset, or give every tensor of the batch the same leading dimension.",
            )
        return leaf[self._start : self._stop]


class _Move:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def whole(self, node: Any) -> bool:
        """Return whether to take the node as a leaf: containers that move themselves, as PackedSequence does."""
        return hasattr(node, "to")

    def __call__(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            if leaf.device == self._device:
                return leaf
            to_accelerator = self._device.type != "cpu" and leaf.device.type == "cpu"
            return leaf.to(self._device, non_blocking=to_accelerator and leaf.is_pinned())
        return leaf.to(self._device) if hasattr(leaf, "to") else leaf


def _rebuild(node: Any, act: "_Cut | _Move") -> Any:
    """Return the node with `act` done to its leaves; the same object where no leaf changed."""
    if isinstance(node, Tensor) or not _is_container(node) or act.whole(node):
        return act(node)
    if type(node) in (list, tuple):
        # What nearly every batch is: without the detour over keys.
        parts = [_rebuild(child, act) for child in node]
        return node if all(part is child for part, child in zip(parts, node, strict=True)) else type(node)(parts)
    children = dict(_children(node))
    changed = {key: _rebuild(child, act) for key, child in children.items()}
    if all(changed[key] is child for key, child in children.items()):
        return node
    return _with_children(node, changed)


def _is_container(node: Any) -> bool:
    if type(node) in (list, tuple, dict):
        return True
    is_dataclass = dataclasses.is_dataclass(node) and not isinstance(node, type)
    return isinstance(node, Mapping | list | tuple) or is_dataclass


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)
    else:
        yield from ((field.name, getattr(node, field.name)) for field in dataclasses.fields(node))


def _with_children(node: Any, children: dict[Any, Any]) -> Any:
    if isinstance(node, tuple):
        # A named tuple takes its fields one by one, a tuple an iterable.
        make: Callable[..., Any] = getattr(type(node), "_make", type(node))
        return make(children.values())
    twin = copy.copy(node)
    if isinstance(node, Mapping | list):
        for key, child in children.items():
            twin[key] = child
    else:
        for name, child in children.items():
            # Frozen dataclasses and fields that __init__ does not take are set the same way.
            object.__setattr__(twin, name, child)
    return twin


def tensors_of(node: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order."""
    if isinstance(node, Tensor):
        yield node
    elif type(node) in (list, tuple):
        for child in node:
            yield from tensors_of(child)
    elif _is_container(node):
        for _, child in _children(node):
            yield from tensors_of(child)
