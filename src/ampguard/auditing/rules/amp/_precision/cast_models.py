"""Which expressions stand for a model that was cast, and which Trainer is handed it."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, key, receiver, walk
from ampguard.auditing.rules.amp._steps import enclosing

_DEPTH = 3
_KEEPS = frozenset({"to", "cuda", "train", "prepare", "prepare_model", "compile", "DataParallel"})
"""Calls that give the model back which they are of, or are handed."""


def stands_for(module: Module, node: ast.expr | None, place: str, cast: ast.Call, depth: int = 0) -> bool:
    """Whether an expression is a model of that key, another name for it, or a part of what was loaded as a whole."""
    taken = key(node) or ""
    if taken == place or (called(cast) == "from_pretrained" and taken.startswith(f"{place}.")):
        return True
    if isinstance(node, ast.Call) and called(node) in _KEEPS:
        owner = receiver(node) if called(node) in ("to", "cuda", "train") else next(iter(node.args), None)
        return stands_for(module, owner, place, cast, depth + 1)
    values = assigned(module, node) if isinstance(node, ast.Name) and depth < _DEPTH else []
    return len(values) == 1 and stands_for(module, values[0], place, cast, depth + 1)


def trainer_of(module: Module, place: str, cast: ast.Call) -> ast.Call | None:
    """Return the construction of a Trainer that is handed the model.

    It stands after the cast in the same function, or for `self.model` that `__init__` makes, in the same class.
    """
    around, own = enclosing(module, cast), module.tree.class_of(cast)
    kept = place.startswith("self.") and own is not None and getattr(around, "name", "") == "__init__"
    for name, calls in module.calls.items():
        for call in calls if name.endswith("Trainer") else ():
            here = enclosing(module, call) is around
            given = argument(call, 0, "model")
            if not here and not (kept and module.tree.class_of(call) is own):
                continue
            if given is None or not stands_for(module, given, place, cast):
                continue
            if not here or (call.lineno > cast.lineno and not made_again(module, place, cast, call)):
                return call
    return None


def made_again(module: Module, place: str, cast: ast.Call, other: ast.Call) -> bool:
    """Whether the name stands for another model by the time of the later of two calls."""
    first, last = sorted((cast.lineno, other.lineno))
    between = [n for n in module.tree.all(ast.Assign) if first < n.lineno < last]
    return any(
        any(key(t) == place for t in node.targets) and not any(key(at) == place for at in walk(node.value))
        for node in between
    )


def before_moves(value: ast.expr) -> ast.expr:
    """Return what a chain of moves to a device starts with: `load(name)` of `load(name).cuda().train()`."""
    while isinstance(value, ast.Call) and called(value) in ("cuda", "train", "to") and receiver(value) is not None:
        owner = receiver(value)
        if not isinstance(owner, ast.Call) or any("float" in ast.unparse(a) for a in value.args):
            return value
        value = owner
    return value
