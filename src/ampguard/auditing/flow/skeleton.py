"""A function reduced to what one question needs: its events, and the control flow that orders them.

A *vocabulary* says which nodes are events and which calls to see through. Everything else is dropped: a statement
without an event, without a jump and without an assignment to a name that some kept test mentions leaves nothing
behind. So the cost follows the number of events, not the length of the function.

Calls into the project are put in place of the call (`Block`), with the helper's parameters spelled as the caller's
arguments, to a fixed depth.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ampguard.auditing.flow.conditions import Naming, Test
from ampguard.auditing.reading.calls import Place
from ampguard.auditing.reading.module import Module


@dataclass(frozen=True, eq=False)
class Event:
    """Something that matters, at one place in the code.

    Attributes:
        kind: The vocabulary's word for it.
        node: Where it is.
        module: The file of `node`.
        stack: The calls that lead there from the function at the root, outermost first, each with its file.
        data: What the vocabulary read off: spelled places by role.
    """

    kind: str
    node: ast.AST
    module: Module
    stack: tuple[tuple[Module, ast.Call], ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bound:
    """What an assignment tells of the place that it binds.

    Attributes:
        kind: "none", "object" (certainly not None), "test" (a truth value), "constant", "same" (another place),
            "choice" (a ternary), "unknown".
    """

    kind: str
    test: Test | None = None
    place: str = ""
    parts: tuple["Bound", "Bound"] | None = None


@dataclass(frozen=True, eq=False)
class Do:
    """An event happens."""

    event: Event


@dataclass(frozen=True, eq=False)
class Bind:
    """A place gets another value."""

    place: str
    bound: Bound


@dataclass(frozen=True, eq=False)
class Choose:
    """A test decides between two ways."""

    test: Test
    body: "list[Op]"
    orelse: "list[Op]"


@dataclass(frozen=True, eq=False)
class Repeat:
    """A loop: over something (`test` is None), or while a test holds."""

    body: "list[Op]"
    orelse: "list[Op]"
    test: Test | None
    places: tuple[str, ...]
    node: ast.AST


@dataclass(frozen=True, eq=False)
class Guarded:
    """A `try`, or a `with` that suppresses exceptions (one empty handler)."""

    body: "list[Op]"
    handlers: "list[list[Op]]"
    orelse: "list[Op]"
    final: "list[Op]"


@dataclass(frozen=True, eq=False)
class Leave:
    """A jump: "return", "break", "continue" or "raise"."""

    kind: str


@dataclass(frozen=True, eq=False)
class Block:
    """The body of a called function (of the file `module`) in place of the call; a return ends the block."""

    body: "list[Op]"
    module: Module


Op = Do | Bind | Choose | Repeat | Guarded | Leave | Block


class Vocabulary(ABC):
    """What one question calls an event."""

    depth: int = 3
    """Calls seen through, one inside the other."""

    @abstractmethod
    def nodes(self, module: Module) -> dict[ast.AST, list[ast.AST]]:
        """Return the event nodes of a file by the function (or module) that they run in, in source order."""

    def watched(self, nodes: Iterable[ast.AST], module: Module, naming: Naming) -> set[str]:  # noqa: ARG002
        """Return further places whose assignments matter, from the function's event nodes."""
        return set()

    @abstractmethod
    def event(self, node: ast.AST, module: Module, naming: Naming) -> Event | None:
        """Return the event that a node is, with its places spelled by `naming`."""

    def may_help(self, module: Module, name: str) -> bool:  # noqa: ARG002
        """Whether a call of something of that name may run a helper: asked once a name, before `helper` is."""
        return True

    @abstractmethod
    def helper(self, module: Module, call: ast.Call) -> Place | None:
        """Return the project's function that a call runs if it is worth seeing through, else None."""
