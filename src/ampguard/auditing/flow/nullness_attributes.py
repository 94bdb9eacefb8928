"""Attributes that `__init__` leaves None on some way, and that no other method gives a value."""

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ampguard.auditing.flow.lowering import group
from ampguard.auditing.flow.nullness import Reading
from ampguard.auditing.flow.nullness_state import Maybe, State
from ampguard.auditing.flow.optional import tested_in_method
from ampguard.auditing.reading.calls import attributes
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, is_none_literal, key, receiver


def left_by_init(module: Module, function: Function) -> dict[str, Maybe]:
    """Return the attributes of `self` that may be None where a method begins."""
    cls = module.tree.class_of(function)
    if cls is None or function.name == "__init__" or module.tree.parents.get(function) is not cls:
        return {}
    return module.once(("left by init", cls), lambda: dict(_left(module, cls)))


def _left(module: Module, cls: ast.ClassDef) -> Iterator[tuple[str, Maybe]]:
    made = next((f for f in cls.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if made is None:
        return
    names = [name for name, values in attributes(module, cls).items() if _is_kept(module, made, values)]
    places = [f"self.{name}" for name in names if not _is_given(module, cls, name)]
    defaults = {a.arg: Maybe(a, "default") for a, d in parameters(made) if d is not None and is_none_literal(d)}
    if not places:
        return
    hot = hot_nodes(module, made, [*places, *defaults])
    reading = Reading(hot, lambda _: None, lambda _: (), lambda *_: True)
    end = reading.run(made, State(defaults))
    for place in places if end is not None else ():
        maybe = end.maybe.get(place) if end is not None else None
        if maybe is not None:
            yield place, replace(maybe, kind="attribute", passed=False)


def _is_kept(module: Module, made: ast.FunctionDef, values: list[ast.expr]) -> bool:
    """Whether `__init__` alone gives an attribute its values, None or a name among them."""
    if not all(module.tree.function(value) is made for value in values):
        return False
    return any(isinstance(part, ast.Name) or is_none_literal(part) for value in values for part in _parts(value))


def _parts(value: ast.expr) -> list[ast.expr]:
    return [*_parts(value.body), *_parts(value.orelse)] if isinstance(value, ast.IfExp) else [value]


def _is_given(module: Module, cls: ast.ClassDef, name: str) -> bool:
    """Whether something beside the class gives an attribute of that name a value."""
    stored = module.once(
        "attributes stored", lambda: [n for n in module.tree.all(ast.Attribute) if isinstance(n.ctx, ast.Store)]
    )
    return any(n.attr == name and (key(n.value) != "self" or module.tree.class_of(n) is not cls) for n in stored)


def resetting(module: Module, function: Function) -> Callable[[ast.Call], Iterable[str]]:
    """Return what tells the attributes that a call of the object's own methods asks about: `self._require_writer()`."""
    methods = _methods(module, function)

    def asked(call: ast.Call) -> Iterable[str]:
        method = methods.get(called(call)) if key(receiver(call)) == "self" else None
        return tested_in_method(module, method) if method is not None else ()

    return asked


def _methods(module: Module, function: Function) -> dict[str, Function]:
    cls = module.tree.class_of(function)
    return {f.name: f for f in cls.body if isinstance(f, FUNCTIONS)} if cls is not None else {}


def asking_calls(module: Module, function: Function, places: Iterable[str]) -> list[ast.AST]:
    """Return the calls in a method of others of its class that ask about one of these places."""
    wanted = {place for place in places if place.startswith("self.")}
    if not wanted:
        return []
    asking = [name for name, m in _methods(module, function).items() if wanted & tested_in_method(module, m)]
    calls = (call for name in asking for call in module.calls.get(name, ()))
    return [call for call in calls if module.tree.function(call) is function]


def hot_nodes(module: Module, function: Function, places: Sequence[str]) -> set[ast.AST]:
    """Return the nodes of a function that hold one of these places or leave a block, and all above them."""
    held: list[ast.AST] = asking_calls(module, function, places)
    wanted = set()
    for place in places:
        if place.isidentifier():
            held += module.tree.named(place, function)
        else:
            wanted.add(place)
    if wanted:
        attributes_ = module.once("attributes by function", lambda: group(module, module.tree.all(ast.Attribute)))
        held += [n for n in attributes_.get(function, ()) if key(n) in wanted]
    leaving = module.once("leaving", lambda: group(module, module.tree.all(*_LEAVES)))
    held += leaving.get(function, ())
    hot: set[ast.AST] = set()
    for node in held:
        at: ast.AST | None = node
        while at is not None and at is not function and at not in hot:
            hot.add(at)
            at = module.tree.parents.get(at)
    return hot


_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
