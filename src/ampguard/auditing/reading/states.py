"""Counts that an object keeps: they begin at nothing in one method, and other methods count them up.

Until the first update such a count is zero, whatever a method that gathers it over processes sets it to later.
"""

import ast

from ampguard.auditing.reading.given import given_by_methods, values_given
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, walk
from ampguard.auditing.reading.zeros import is_nothing

_BEGINS = ("__init__", "__post_init__", "__enter__", "setup")


def begins_at_nothing(module: Module, cls: ast.ClassDef, place: str) -> ast.expr | None:
    """Return the literal zero that `self.x` begins with where methods count it up, or None.

    What makes the object has to set it so, or every method that sets it (`reset()`); `self.n = self.n + 1` counts.
    """
    question = ("begins at nothing", cls, place)
    return module.once(question, lambda: _begins(module, cls, place))


def _begins(module: Module, cls: ast.ClassDef, place: str) -> ast.expr | None:
    given: list[tuple[Function | None, ast.expr]] = [*given_by_methods(module, cls, place)]
    given += [(None, value) for value in values_given(module, place.removeprefix("self."), cls)]
    counts = [value for _, value in given if _adds_to(value, place)]
    set_to = [(method, value) for method, value in given if value not in counts]
    nothing = [value for _, value in set_to if is_nothing(value)]
    if not nothing or not (counts or _is_counted(module, place)):
        return None
    made = [value for method, value in set_to if _makes(cls, method)]
    first = made or [value for _, value in set_to]
    return nothing[0] if all(is_nothing(value) for value in first) else None


def _adds_to(value: ast.expr, place: str) -> bool:
    """Whether a value is the place itself and something more: `self.n + 1`."""
    if not isinstance(value, ast.BinOp) or not isinstance(value.op, ast.Add):
        return False
    return place in (key(value.left), key(value.right))


def _is_counted(module: Module, place: str) -> bool:
    """Whether a class of the file counts it up: this one, or one that builds on it."""
    counted: set[str | None] = module.once(
        "counted up", lambda: {key(n.target) for n in module.tree.all(ast.AugAssign)}
    )
    return place in counted


def _makes(cls: ast.ClassDef, method: Function | None) -> bool:
    """Whether a method runs while the object is made: `__init__` and what that calls; None is the class's own body."""
    if method is None or method.name in _BEGINS:
        return True
    first = next((item for item in cls.body if isinstance(item, FUNCTIONS) and item.name == "__init__"), None)
    return first is not None and any(isinstance(node, ast.Call) and called(node) == method.name for node in walk(first))
