"""Why something may be zero or empty, and the bookkeeping of the search for it (see `values`)."""

import ast
from dataclasses import dataclass
from typing import Literal

from ampguard.auditing.reading.tree import called

Kind = Literal[
    "index",
    "counted",
    "filtered",
    "whole time",
    "floored",
    "waiting",
    "state",
    "since",
    "chosen",
    "quotient",
    "ratio",
    "masked",
    "positives",
    "relative",
    "void",
    "nothing",
    "option",
    "setting",
    "single",
    "equal",
    "dropped",
    "listed",
    "memory",
    "devices",
    "time",
    "spread",
    "text",
    "scale",
    "empty",
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
            update; "chosen": zero on one branch; "quotient": a whole-number quotient of two settings; "ratio": a sum
            of counts of which the left side is one; "masked": how many elements of a tensor meet a condition;
            "void": a sum, degree or area of arrays that is 0 where there is nothing; "nothing": such a plain number;
            "option": an option whose default is 0; "single": one less than a number; "equal": the
            difference of two settings; "dropped": the batches of a loader without its last; "listed": files found;
            "devices": the GPUs of the machine; "spread": the spread or the peak of what is divided; "text": the length
            of a text; "scale": a reading of the loss scale; "empty": counts the passes of a loop that may have none.
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


def is_nothing(node: ast.expr | None) -> bool:
    """Whether the expression is a literal zero or an empty container."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool) and node.value == 0
    if isinstance(node, ast.List | ast.Set | ast.Tuple):
        return not node.elts
    if isinstance(node, ast.Dict):
        return not node.keys
    if not isinstance(node, ast.Call) or node.args or node.keywords:
        return False
    return isinstance(node.func, ast.Name) and node.func.id in ("list", "dict", "set", "deque", "int", "float")


def is_zeros(value: ast.expr | None) -> bool:
    """Whether the expression is a container of plain zeros: `[0] * n`, `[0 for _ in xs]`, `dict.fromkeys(xs, 0)`."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        return any(
            isinstance(s, ast.List) and len(s.elts) == 1 and _is_zero(s.elts[0]) for s in (value.left, value.right)
        )
    if isinstance(value, ast.ListComp | ast.GeneratorExp):
        return _is_zero(value.elt)
    if isinstance(value, ast.DictComp):
        return _is_zero(value.value)
    if isinstance(value, ast.Call) and called(value) == "fromkeys" and len(value.args) == 2:
        return _is_zero(value.args[1])
    return isinstance(value, ast.Call) and called(value) == "list" and len(value.args) == 1 and is_zeros(value.args[0])


def _is_zero(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and is_nothing(node)
