"""What a flag stands for where its value is given outside of its scope: by another object, a function or a caller."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import (
    assigned,
    attributes,
    class_of_object,
    constructed,
    method,
    same_function,
    target,
)
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import flag_words, regions_in
from ampguard.auditing.reading.tree import Function, argument, walk_scope
from ampguard.auditing.rules.amp._steps import tests_above

_FILES = 6
"""Files that are asked for callers: a name that more of them call says too little."""

Said = tuple[Module, ast.expr]
"""An expression and the file it stands in."""


def given_outside(module: Module, node: ast.expr) -> list[Said]:
    """Return the expressions that a flag may have its value from: those of an object, a function, the callers."""
    if isinstance(node, ast.Attribute):
        owner = constructed(module, node.value) or class_of_object(module, node.value)
        return _of_object(*owner, node.attr) if owner is not None else []
    if isinstance(node, ast.Call):
        place = target(module, node)
        return _returned(*place) if place is not None else []
    function = module.tree.function(node)
    if isinstance(node, ast.Name) and function is not None and node.id in {a.arg for a, _ in parameters(function)}:
        return list(_of_callers(module, function, node.id))
    return []


def _of_object(where: Module, cls: ast.ClassDef, name: str) -> list[Said]:
    """Return what the methods of a class give to an attribute, or what a property of that name gives."""
    found: list[Said] = [(where, value) for value in attributes(where, cls).get(name, [])]
    if found:
        return found
    place = method(where, cls, name)
    return _returned(*place) if place is not None and place[1].decorator_list else []


def _returned(where: Module, function: Function) -> list[Said]:
    values = [node.value for node in walk_scope(function) if isinstance(node, ast.Return)]
    return [(where, value) for value in values if value is not None]


def _of_callers(module: Module, function: Function, name: str) -> Iterator[Said]:
    """Walk what the calls of a function, or the constructions of its class, give for a parameter."""
    cls = module.tree.class_of(function)
    word = cls.name if function.name == "__init__" and cls is not None else function.name
    project = module.project
    paths = [path for path, _ in project.texts(f"{word}(")]
    for path in paths if len(paths) <= _FILES else ():
        where = module if path == module.path else project.module(path)
        if where is None or where.role != module.role:
            continue
        for call in where.calls.get(word, ()):
            place = target(where, call, (word,))
            given = argument_for(call, function, name)
            if given is not None and place is not None and same_function(place, (module, function)):
                yield where, given


def words_of_its_choice(module: Module, opened: ast.Call) -> frozenset[str]:
    """Return the names that the dtype depends on, of the autocast in a function of the project that a call opens."""
    place = target(module, opened, ("autocast",))
    if place is None:
        return frozenset()
    where, function = place
    words: set[str] = set()
    for region in regions_in(where):
        dtype = argument(region.call, 1, "dtype") if where.tree.function(region.call) is function else None
        for value in [] if dtype is None else [dtype, *assigned(where, dtype)]:
            words |= flag_words(where, value)
            for test, _ in list(tests_above(where, value))[:1] if value is not dtype else ():
                words |= flag_words(where, test)
    return frozenset(words)
