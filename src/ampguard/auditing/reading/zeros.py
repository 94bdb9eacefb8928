"""Why something may be zero or empty, and the bookkeeping of the search for it (see `values`)."""

import ast
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "index", "counted", "filtered", "whole time", "floored", "waiting", "state", "chosen", "listed", "memory", "time"
]

_RANKED: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]
_DEPTH = 24
_STEPS = 2000


@dataclass(frozen=True)
class Zero:
    """Why something may be zero, or empty.

    Attributes:
        kind: "time": a span of time; "whole time": one that was rounded to whole units; "memory": bytes counted by
            the allocator; "counted": a counter or container that is filled only for some items; "filtered": items
            that passed a condition; "floored": a whole-number quotient of a length; "index": the first index of a
            loop; "waiting": an object's counter that something else fills; "state": an attribute before its first
            update; "chosen": zero on one branch; "listed": files found.
        why: A clause for a message, about the thing: "counts only the items that ...".
        line: Where it comes from.
        spellings: Not zero where one of the things spelled so is not zero, not empty.
        grows: The statements of this file that make it more than zero.
    """

    kind: Kind
    why: str
    line: int
    spellings: frozenset[str] = frozenset()
    grows: tuple[ast.AST, ...] = ()

    @property
    def rank(self) -> int:
        """Return how much the zero is to be expected; 0 is most."""
        return _RANKED.index(self.kind)


class Search:
    """One search for a zero: what it is busy with, so that it ends; `cut` where it gave up somewhere."""

    def __init__(self) -> None:
        self.busy: set[object] = set()
        self.steps = 0
        self.cut = False

    def enter(self, question: object) -> bool:
        """Whether to go into a question: not into one that waits for this one, nor too deep or too long."""
        self.steps += 1
        if question in self.busy or len(self.busy) > _DEPTH or self.steps > _STEPS:
            self.cut = True
            return False
        self.busy.add(question)
        return True

    def leave(self, question: object, cut: bool) -> None:
        """Come back from a question."""
        self.busy.discard(question)
        self.cut |= cut
