"""Where the loss of a backward pass comes from, and whether two passes are parts of one step."""

import ast
import re

from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, receiver, walk

_SCALES = regex(r"scal", re.IGNORECASE)


def scaled_elsewhere(event: Event) -> bool:
    """Whether the loss comes from a call that may have scaled it: `loss = self.scale_loss(loss)`."""
    return event.module.once(("scaled elsewhere", event.node), lambda: any(map(_may_scale, _values(event))))


def kept_somewhere(event: Event) -> bool:
    """Whether a scaled loss is put where no name tells: `setattr(self, name, scaler.scale(loss))`, or returned."""
    above = event.module.tree.parents.get(event.node)
    return isinstance(above, ast.Call | ast.Return | ast.List | ast.Tuple | ast.Dict | ast.ListComp | ast.DictComp)


def meant_as_one(event: Event, earlier: Event | None) -> bool:
    """Whether two backward passes give gradients to one step: in one loop, not in the two arms of one test."""
    if earlier is None or earlier.module is not event.module:
        return False
    loops = event.module.tree.loops
    if next(loops(event.node), None) is not next(loops(earlier.node), None):
        return False
    return not _in_two_arms(event.module, event.node, earlier.node)


def made_of_gradients(event: Event) -> bool:
    """Whether a loss is made of gradients that are there: `(output * detached.grad).sum()` goes on with their pass."""
    return event.module.once(("of gradients", event.node), lambda: any(map(_reads_gradients, _values(event))))


def _values(event: Event) -> list[ast.expr]:
    """Return the expression that goes backward, and what is assigned to it."""
    loss = receiver(event.node) if isinstance(event.node, ast.Call) else None
    return [] if loss is None else [loss, *assigned(event.module, loss)]


def _may_scale(value: ast.expr) -> bool:
    return any(isinstance(node, ast.Call) and _SCALES.search(called(node)) for node in walk(value))


def _reads_gradients(value: ast.expr) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "grad" for node in walk(value))


def _in_two_arms(module: Module, one: ast.AST, other: ast.AST) -> bool:
    below = one
    for above in module.tree.above(one):
        if isinstance(above, ast.If) and below is not above.test:
            others = above.orelse if below in above.body else above.body
            if any(module.tree.inside(other, statement) for statement in others):
                return True
        below = above
    return False
