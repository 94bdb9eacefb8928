"""Which function of the project a call runs: plain functions, methods, constructors and callable objects."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, key

Place = tuple[Module, Function]
"""A function and the file it stands in."""

_BASES = 6
"""Base classes followed upward from one class."""


def target(module: Module, call: ast.Call, words: tuple[str, ...] = ()) -> Place | None:
    """Return the function of the project that the call runs, or None where that is not certain.

    A constructor leads to `__init__`, an object of a class of the project to `__call__`. With `words`, other files are
    read only where their text holds one of them: a file that cannot hold what is looked for need not be parsed.
    """
    return module.once(("target", call, words), lambda: _target(module, call, words))


def same_function(one: Place, other: Place) -> bool:
    """Whether two places are one function, also where its file has been parsed twice."""
    return one[0].path == other[0].path and one[1].lineno == other[1].lineno


def constructed(
    module: Module, node: ast.AST | None, words: tuple[str, ...] = ()
) -> tuple[Module, ast.ClassDef] | None:
    """Return the class of the project that the expression constructs, or None."""
    if not isinstance(node, ast.Call):
        return None
    found = definition(module, node.func, words)
    return found if found is not None and isinstance(found[1], ast.ClassDef) else None  # type: ignore[return-value]


def definition(
    module: Module, node: ast.AST, words: tuple[str, ...] = ()
) -> tuple[Module, Function | ast.ClassDef] | None:
    """Return the function or class of the project that an expression names, through imports and re-exports."""
    if isinstance(node, ast.Name):
        found = module.names.lookup(node.id, node)
        if found is None:
            return None
        last = found[1][-1]
        if isinstance(last.node, (*FUNCTIONS, ast.ClassDef)):
            return module, last.node
        return module.project.definition(last.dotted, module.path, words=words) if last.kind == "import" else None
    if isinstance(node, ast.Attribute):
        dotted = module.names.dotted(node)
        if len(dotted) == 1 and "." in dotted[0]:
            return module.project.definition(dotted[0], module.path, words=words)
    return None


def method(
    module: Module, cls: ast.ClassDef, name: str, words: tuple[str, ...] = (), *, depth: int = 0
) -> Place | None:
    """Return the method of a class or of its bases in the project."""
    for item in cls.body:
        if isinstance(item, FUNCTIONS) and item.name == name:
            return module, item
    for base in cls.bases if depth < _BASES else ():
        found = definition(module, base, words)
        if found is not None and isinstance(found[1], ast.ClassDef) and found[1] is not cls:
            inherited = method(found[0], found[1], name, words, depth=depth + 1)
            if inherited is not None:
                return inherited
    return None


def bases(module: Module, cls: ast.ClassDef, *, depth: int = 0) -> Iterator[tuple[Module, ast.ClassDef]]:
    """Walk the classes of the project that a class builds on, with their files, the nearest first."""
    for node in cls.bases if depth < _BASES else ():
        found = definition(module, node)
        if found is not None and isinstance(found[1], ast.ClassDef) and found[1] is not cls:
            yield found[0], found[1]
            yield from bases(found[0], found[1], depth=depth + 1)


def class_of_object(module: Module, node: ast.expr, words: tuple[str, ...] = ()) -> tuple[Module, ast.ClassDef] | None:
    """Return the class of the project whose object an expression is: `self`, or a name or attribute assigned once."""
    if isinstance(node, ast.Name) and node.id in ("self", "cls"):
        own = module.tree.class_of(node)
        return (module, own) if own is not None else None
    values = assigned(module, node)
    classes = [found for found in (constructed(module, value, words) for value in values) if found is not None]
    return classes[0] if len(classes) == 1 and len(values) <= 2 else None


def assigned(module: Module, node: ast.expr) -> list[ast.expr]:
    """Return what is assigned to a name in its scope, or to `self.x` anywhere in its class."""
    if isinstance(node, ast.Name):
        return module.names.values(node.id, node)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        cls = module.tree.class_of(node)
        return attributes(module, cls).get(node.attr, []) if cls is not None else []
    return []


def attributes(module: Module, cls: ast.ClassDef) -> dict[str, list[ast.expr]]:
    """Return what the methods of a class assign to each attribute of `self`, in source order."""
    return module.once("attributes by class", lambda: _attributes(module)).get(cls, {})


def _attributes(module: Module) -> dict[ast.ClassDef, dict[str, list[ast.expr]]]:
    found: dict[ast.ClassDef, dict[str, list[ast.expr]]] = {}
    for node in module.tree.all(ast.Assign, ast.AnnAssign):
        if node.value is None:
            continue
        for target_ in node.targets if isinstance(node, ast.Assign) else [node.target]:
            place = key(target_) if isinstance(target_, ast.Attribute | ast.Subscript) else None
            if place and place.startswith("self.") and place.count(".") == 1:
                cls = module.tree.class_of(node)
                if cls is not None:
                    found.setdefault(cls, {}).setdefault(place.removeprefix("self."), []).append(node.value)
    return found


def _target(module: Module, call: ast.Call, words: tuple[str, ...]) -> Place | None:
    func = call.func
    named = definition(module, func, words)
    if named is not None:
        where, node = named
        return (where, node) if isinstance(node, FUNCTIONS) else method(where, node, "__init__", words)
    if isinstance(func, ast.Attribute):
        if isinstance(func.value, ast.Call) and isinstance(func.value.func, ast.Name) and func.value.func.id == "super":
            return _inherited(module, call, func.attr, words)
        owner = class_of_object(module, func.value, words)
        found = method(*owner, func.attr, words) if owner is not None else None
        if found is not None:
            return found
    owner = class_of_object(module, func, words)
    return method(*owner, "__call__", words) if owner is not None and not _is_self(func) else None


def _inherited(module: Module, call: ast.Call, name: str, words: tuple[str, ...]) -> Place | None:
    own = module.tree.class_of(call)
    for base in own.bases if own is not None else ():
        found = definition(module, base, words)
        if found is not None and isinstance(found[1], ast.ClassDef):
            return method(found[0], found[1], name, words)
    return None


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
