"""What each scope gives a value to, by key: a cheap question to ask before definitions are followed on their ways."""

import ast
from collections.abc import Iterable, Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, Scope, key

_Given = dict[str, list[ast.expr]]
"""By key: the right sides that stand for the place as a whole; [] where it is counted, looped with, unpacked into."""


def flow_of(module: Module, node: ast.AST) -> Scope:
    """Return the function, class or module whose flow leads to a node; a lambda is part of the flow around it."""
    scope = module.tree.scope(node)
    while isinstance(scope, ast.Lambda):
        scope = module.tree.scope(scope)
    return scope


def is_given(module: Module, place: str, scope: Scope) -> bool:
    """Whether a scope gives a value to the place, to an item of it, or to what it is a part of, or clears it."""
    given = _given(module, scope)
    return place in given or any(place[:end] in given for end, mark in enumerate(place) if mark in ".[")


def values_given(module: Module, place: str, scope: Scope) -> list[ast.expr]:
    """Return the right sides that a scope assigns to the place itself."""
    return _given(module, scope).get(place, [])


def given_by_methods(module: Module, cls: ast.ClassDef, place: str) -> list[tuple[Function, ast.expr]]:
    """Return what the methods of a class assign to `self.x`, unpacked too, each with its method."""
    methods = [item for item in cls.body if isinstance(item, FUNCTIONS)]
    return [(method, value) for method in methods for value in values_given(module, place, method)]


def given_elsewhere(module: Module, place: str, scope: Scope) -> bool:
    """Whether another scope of the file gives a value to an attribute of that name, by whatever object."""
    by_name: dict[str, set[Scope]] = module.once("scopes that give", lambda: _scopes_by_attribute(module))
    return bool(by_name.get(place.rpartition(".")[2], set()) - {scope})


def _scopes_by_attribute(module: Module) -> dict[str, set[Scope]]:
    found: dict[str, set[Scope]] = {}
    by_scope: dict[Scope, _Given] = module.once("given values", lambda: _by_scope(module))
    for scope, given in by_scope.items():
        for place in given:
            if "." in place:
                found.setdefault(place.rpartition(".")[2], set()).add(scope)
    return found


def _given(module: Module, scope: Scope) -> _Given:
    given: dict[Scope, _Given] = module.once("given values", lambda: _by_scope(module))
    return given.get(scope, {})


def _by_scope(module: Module) -> dict[Scope, _Given]:
    found: dict[Scope, _Given] = {}
    for node, target, value in _all_given(module):
        here = found.setdefault(flow_of(module, node), {})
        for place, part in _parts(target, value):
            values = here.setdefault(place, [])
            if part is not None:
                values.append(part)
    return found


def _all_given(module: Module) -> Iterator[tuple[ast.AST, ast.expr, ast.expr | None]]:
    """Walk what gives values: the node, what is given one, and the value where the target is given that as it is."""
    tree = module.tree
    for node in tree.all(ast.Assign):
        for target in node.targets:
            yield node, target, node.value
    for node in tree.all(ast.AnnAssign, ast.NamedExpr):
        yield node, node.target, node.value
    for node in tree.all(ast.AugAssign, ast.For, ast.AsyncFor):
        yield node, node.target, None
    for call in module.calls_of("clear"):
        if isinstance(call.func, ast.Attribute):
            yield call, call.func.value, None


def _parts(target: ast.expr, value: ast.expr | None) -> Iterable[tuple[str, ast.expr | None]]:
    """Return the keys of what a target gives values to, each with its own value where that is seen."""
    if isinstance(target, ast.Name):
        return ((target.id, value),)
    if isinstance(target, (ast.Tuple, ast.List)):
        values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
        paired = values if len(values) == len(target.elts) else [None] * len(target.elts)
        return [part for element, one in zip(target.elts, paired, strict=True) for part in _parts(element, one)]
    if isinstance(target, ast.Starred):
        return _parts(target.value, value)
    places = [(key(target), value)]
    if isinstance(target, ast.Subscript):  # `counts[name] = 1` adds to `counts`
        places.append((key(target.value), None))
    return [(place, one) for place, one in places if place is not None]
