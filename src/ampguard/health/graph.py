"""Which module made which part of the autograd graph, and what each part does to a gradient.

A module's nodes are those that can be reached from its outputs and that nobody had before: its children's outputs were
walked when the children returned, its inputs when it was called. In the backward pass a hook on each node sees what
comes in and what goes out, which tells the first operation that makes a finite gradient non-finite; hooks on nodes
leave modules that work in place alone, where torch's full backward hooks do not.

The graph is kept alive until `forget`, so that no two nodes are taken for one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.utils.hooks import RemovableHandle

Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Part(Generic[Owner]):
    """An operation in the backward pass, and whose it is."""

    node: Any
    owner: Owner
    readable: bool
    """Whether what the node saved may be looked at: a checkpointed one would be computed again for it."""


class Graph(Generic[Owner]):
    """The nodes of one step.

    Args:
        passed: Called with (part, gradients that it made, gradients that it got) as the backward pass goes through.
    """

    def __init__(self, passed: Callable[[Part[Owner], Sequence[Tensor | None], Sequence[Tensor | None]], None]) -> None:
        self._passed = passed
        self._known: set[Any] = set()
        self._handles: list[RemovableHandle] = []

    def claim(self, tensors: Sequence[Tensor], owner: Owner, *, readable: bool) -> list[Part[Owner]]:
        """Give every node behind `tensors` that is nobody's yet to `owner`; return them as they ran in the forward."""
        new: list[Part[Owner]] = []
        pending = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
        while pending:
            node: Any = pending.pop()
            if node in self._known:
                continue
            self._known.add(node)
            part = Part(node, owner, readable)
            # What only stores the gradient of a parameter makes none.
            if node.next_functions:
                self._handles.append(node.register_hook(self._hook(part)))
                new.append(part)
            pending += [after for after, _ in node.next_functions if after is not None]
        return sorted(new, key=lambda part: int(part.node._sequence_nr()))

    def _hook(self, part: Part[Owner]) -> Callable[..., None]:
        return lambda made, got: self._passed(part, made, got)

    def forget(self) -> None:
        """Drop the graph: hooks and nodes hold each other where Python's collector does not look."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._known.clear()
