"""Gradients that are unscaled with the last piece of a batch: `if is_last: scaler.unscale_(optimizer)` in its loop.

A path may leave such a loop without its last round, as far as tests can tell; a program does not.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.flow.skeleton import Event, Op
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS

_LAST = regex(r"(\b|_)(last|final)(_|\b)|== len\(.+\) - 1")
"""What a test says that is true in the last round of a loop alone."""


def unscaled_with_the_last(violation: Violation, ops: list[Op]) -> bool:
    """Whether a look at gradients stands behind a loop that runs the backward pass, and unscales in its last round."""
    if violation.earlier is None or not violation.kind.endswith("before unscale"):
        return False
    backward, look = _way(violation.earlier), _way(violation.event)
    return any(
        any(_inside(at, loop) for at in backward) and any(_behind(at, loop) for at in look)
        for event in events(ops)
        if event.kind == "unscale"
        for loop in _ended(event)
    )


def _way(event: Event) -> list[tuple[Module, ast.AST]]:
    """Return the calls that lead to an event, and the event, each with its file."""
    return [*event.stack, (event.module, event.node)]


def _ended(event: Event) -> Iterator[tuple[Module, ast.AST]]:
    """Walk the loops around an event that stands under a test of their last round."""
    for module, node in _way(event):
        last = False
        for above in module.tree.above(node):
            if isinstance(above, FUNCTIONS):
                break
            last = last or (isinstance(above, ast.If) and bool(_LAST.search(ast.unparse(above.test))))
            if last and isinstance(above, ast.For | ast.While):
                yield module, above


def _inside(at: tuple[Module, ast.AST], loop: tuple[Module, ast.AST]) -> bool:
    return at[0] is loop[0] and at[0].tree.inside(at[1], loop[1])


def _behind(at: tuple[Module, ast.AST], loop: tuple[Module, ast.AST]) -> bool:
    """Whether a node stands behind a loop of the same function."""
    module, node = at
    same = module is loop[0] and module.tree.function(node) is module.tree.function(loop[1])
    return same and getattr(node, "lineno", 0) > (getattr(loop[1], "end_lineno", 0) or 0)
