"""Lengths of lists that an object begins without an item, and that other methods fill: 0 until the first.

`distance / (len(self.path) * step)`, where `__init__` says `self.path = []` and a step appends to it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.given import given_by_methods
from ampguard.auditing.reading.guards import spelling
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.reading.zeros import Zero, is_nothing

_FILLS = ("append", "extend")


def filled_list(module: Module, right: ast.expr) -> Zero | None:
    """Return the zero of a product with the length of such a list."""
    if not isinstance(right, ast.BinOp) or not isinstance(right.op, ast.Mult) or not module.mentions(("append(",)):
        return None
    owner, function = module.tree.class_of(right), module.tree.function(right)
    for place in _measured(right) if owner is not None else ():
        given = [value for _, value in given_by_methods(module, owner, place)]  # type: ignore[arg-type]
        fills = [c for c in module.calls_of(*_FILLS) if key(receiver(c)) == place]
        elsewhere = [c for c in fills if module.tree.class_of(c) is owner and module.tree.function(c) is not function]
        if given and all(map(is_nothing, given)) and elsewhere:
            why = f"is 0 until line {elsewhere[0].lineno} has filled `{place}`"
            return Zero("state", why, right.lineno, frozenset({spelling(right), place, f"len({place})"}))
    return None


def _measured(node: ast.expr) -> Iterator[str]:
    """Walk the lists whose lengths are factors of a product."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _measured(node.left)
        yield from _measured(node.right)
    elif isinstance(node, ast.Call) and called(node) == "len" and receiver(node) is None and node.args:
        place = key(node.args[0]) or ""
        if place.startswith("self.") and place.count(".") == 1:
            yield place
