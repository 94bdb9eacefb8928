"""Questions whether the scale fell that are asked before `update()`, which alone changes it."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk_scope


def asked_before_update(module: Module) -> Iterator[tuple[ast.Compare, str]]:
    """Walk (the comparison of an earlier scale with `get_scale()`, the scaler) behind a step and before its update."""
    for function in module.functions if module.mentions(("get_scale",)) else ():
        calls = [n for n in walk_scope(function) if isinstance(n, ast.Call)]
        for node in walk_scope(function):
            place = _scaler_asked(module, node)
            if place is None or not isinstance(node, ast.Compare):
                continue
            steps = [c.lineno for c in calls if called(c) == "step" and key(receiver(c)) == place]
            updates = [c.lineno for c in calls if called(c) == "update" and key(receiver(c)) == place]
            stepped = max((line for line in steps if line < node.lineno), default=None)
            behind = [line for line in updates if stepped is not None and line > stepped]
            if behind and min(behind) > node.lineno and _knows_earlier(function, node, place, stepped or 0):
                yield node, place


def _scaler_asked(module: Module, node: ast.AST) -> str | None:
    """Return the scaler whose scale a comparison reads anew."""
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
    reads = [side for side in sides if isinstance(side, ast.Call) and called(side) == "get_scale"]
    return key(receiver(reads[0])) if len(reads) == 1 and is_scaler(module, receiver(reads[0])) else None


def _knows_earlier(function: Function, node: ast.Compare, place: str, stepped: int) -> bool:
    """Whether the other side is a name that was given the scale before the step."""
    names = {key(side) for side in (node.left, *node.comparators)} - {None}
    return any(
        isinstance(at, ast.Assign)
        and key(at.targets[0]) in names
        and isinstance(at.value, ast.Call)
        and key(at.value.func) == f"{place}.get_scale"
        and at.lineno < stepped
        for at in walk_scope(function)
    )
