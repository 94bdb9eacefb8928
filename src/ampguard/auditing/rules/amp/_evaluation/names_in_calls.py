"""Under which names a function of the project knows the models of who calls it.

By its parameters, as `self`, as an attribute of what it is handed, or as what its object was made with.
"""

import ast

from ampguard.auditing.reading.calls import Place, assigned, class_of_object, constructed, method
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.same_models import bare, has_modes, named, same_models
from ampguard.auditing.rules.amp._steps import assigned_below, enclosing


def names_in(module: Module, call: ast.Call, place: Place, known: set[str]) -> dict[str, str]:
    """Return the names under which a called function knows the caller's models, those of its file among them."""
    where, function = place
    names = handed_in(module, call, place, known)
    if where is module:
        local = {"self", *(a.arg for a, _ in parameters(function)), *assigned_below(module, function)}
        names |= {held: held for held in known if held.split(".")[0] not in local}
    for node in walk_scope(function):
        names |= {name: names[held] for name, held in named(node) if held in names}
    return names


def is_handed(module: Module, call: ast.Call, place: Place | None, known: set[str]) -> bool:
    """Whether a call surely works on one of the models: it is handed it, or its function sees the caller's names."""
    given = (receiver(call), *call.args, *(k.value for k in call.keywords))
    if place is None or any(bare(value) in known for value in given):
        return place is not None or any(bare(value) in known for value in given)
    around = enclosing(module, call)
    seen = place[0] is module and around in (module.root, enclosing(module, place[1]))
    return seen or bool(handed_in(module, call, place, known))


def handed_in(module: Module, call: ast.Call, place: Place, known: set[str]) -> dict[str, str]:
    """Return the names of the models that a function is handed, by its parameters or with its object."""
    taken = [arg.arg for arg, _ in parameters(place[1])]
    own = bool(taken) and taken[0] == "self"
    names = _given(call, taken[own:], known)
    owner = call.func if place[1].name == "__call__" and called(call) != "__call__" else receiver(call)
    if not own or owner is None:
        return names
    if key(owner) == "self" or ast.unparse(owner) == "super()":
        return names | {held: held for held in known if held.split(".")[0] == "self"}
    made = class_of_object(module, owner) if bare(owner) in known else None
    names |= {name: held for name, held in _below("self", owner, known) if "." in name}
    names |= {"self": bare(owner) or ""} if made is not None and has_modes(*made) else {}
    return names | _held_by(module, owner, known)


def _given(call: ast.Call, taken: list[str], known: set[str]) -> dict[str, str]:
    given = dict(zip(taken, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
    return {under: held for name, value in given.items() for under, held in _below(name, value, known)}


def _below(name: str, value: ast.expr, known: set[str]) -> list[tuple[str, str]]:
    """Return the names of the models that a value is or holds, under a name of its own."""
    if isinstance(value, ast.List | ast.Tuple):
        return [pair for item in value.elts for pair in _below(name, item, known)][:1]
    place = bare(value)
    if place is None:
        return []
    held = [(name, place)] if place in known else []
    return held + [(name + k.removeprefix(place), k) for k in known if k.startswith(f"{place}.")]


def _held_by(module: Module, owner: ast.expr, known: set[str]) -> dict[str, str]:
    """Return the attributes of an object that hold models which it was made with."""
    for value in assigned(module, owner):
        made = constructed(module, value)
        start = method(*made, "__init__") if made is not None else None
        if start is None or not isinstance(value, ast.Call):
            continue
        here = enclosing(module, value) is enclosing(module, owner)
        outside = same_models(module, value, {k for k in known if here or k.startswith("self.")})
        given = _given(value, [a.arg for a, _ in parameters(start[1])][1:], set(outside))
        kept = (pair for node in walk_scope(start[1]) for pair in named(node))
        return {place: outside[given[held]] for place, held in kept if held in given}
    return {}
