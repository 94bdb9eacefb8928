"""What the rules of the scaler's protocol share: the walk is made once a file, each rule tells its own kinds."""

import ast
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from ampguard.auditing.findings import Finding
from ampguard.auditing.flow.gradients import site, violations
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule


class ProtocolRule(Rule):
    """A rule about the order of the calls between two backward passes.

    Class attributes:
        kinds: The kinds of `Violation` that this rule tells.
    """

    kinds: ClassVar[tuple[str, ...]]
    words: ClassVar[tuple[str, ...]] = ("unscale_", "scaler", "GradScaler", "backward")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield a finding for each violation of the rule's kinds, one a line."""
        told: set[int] = set()
        for kind in self.kinds:
            for violation in violations(module, kind):
                at = self.place(module, violation)
                line = getattr(at, "lineno", 1)
                if line not in told:
                    told.add(line)
                    yield self.finding(module, at, self.told(module, violation), critical_path=True)

    def place(self, module: Module, violation: Violation) -> ast.AST:
        """Return where a violation shows in a file."""
        return site(module, violation.event)

    @abstractmethod
    def told(self, module: Module, violation: Violation) -> str:
        """Return the message of one violation."""


def where(module: Module, event: Event | None) -> str:
    """Return "line 12", or the other file with its line, of an event that made a later one wrong."""
    if event is None:
        return "earlier"
    at = site(module, event)
    if event.module is module or at is not event.node:
        return f"line {getattr(at, 'lineno', 1)}"
    return f"line {getattr(event.node, 'lineno', 1)} of {event.module.path}"


def through(module: Module, event: Event, at: ast.AST | None = None) -> str:
    """Return " (inside, at line 3 of utils.py)" where the event shows only as a call, else "".

    Args:
        module: The file.
        event: The event.
        at: Where it shows in the file; by default itself, wherever it stands in that file.
    """
    if at is event.node or (at is None and event.module is module):
        return ""
    file = "" if event.module is module else f" of {event.module.path}"
    return f" (inside, at line {getattr(event.node, 'lineno', 1)}{file})"
