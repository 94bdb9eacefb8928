"""Objects as code spells them: their places, and what an expression may stand for.

An object is its place ("self.opt_d", "optimizer") together with its home: the class whose attribute it is, or the
scope that binds the name. The same spelling in another function or class is another object. It is followed through
names, pairs, loops, containers and what wrappers give back.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk

_DEPTH = 4
_SPELLINGS = (ast.Name, ast.Attribute, ast.Subscript, ast.IfExp)
"""What gives an object another name, rather than a new object."""


@dataclass(frozen=True)
class Place:
    """An object as some code spells it.

    Attributes:
        name: Its key: "optimizer", "self.opts['d']"; "self.opts[]" for each that lies in there.
        home: The class of `self`, the scope that binds the first name; None for an attribute of another object.
    """

    name: str
    home: ast.AST | None

    def covers(self, other: "Place") -> bool:
        """Whether what is done with this object is done with the other, as far as the spelling tells."""
        mine, its = self.name.replace("self._", "self."), other.name.replace("self._", "self.")
        if self.home is None or other.home is None:
            return "." in mine and "." in its and (last_name(mine) == last_name(its) or its.startswith(f"{mine}."))
        if self.home is not other.home:
            return False
        if mine == its or mine.startswith((f"{its}.", f"{its}[")) or mine == "self.*":
            return True
        if mine.endswith("[]"):
            return its.startswith(mine[:-1]) or its == mine[:-2]
        if its.endswith("[]") and mine.startswith(its[:-1]):
            return True
        return mine != "self" and its.startswith((f"{mine}.", f"{mine}["))


def places_of(module: Module, node: ast.expr | None, *, depth: int = 0) -> Iterator[Place]:
    """Walk the places whose object an expression is: its own, what a name was assigned, what a loop goes over."""
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
        yield from (Place(f"{p.name}[]", p.home) for p in places_of(module, node.value, depth=depth + 1))
    elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and (name := key(node)) is not None:
        yield Place(name, _home(module, node))
        if isinstance(node, ast.Name) and depth < _DEPTH:
            yield from _bound_to(module, node, depth)
    elif isinstance(node, ast.Call):
        yield from _given_by(module, node, depth)
    elif isinstance(node, ast.IfExp) and depth < _DEPTH:
        for part in (node.body, node.orelse):
            yield from places_of(module, part, depth=depth + 1)


def _home(module: Module, node: ast.expr) -> ast.AST | None:
    first = node
    while isinstance(first, ast.Attribute | ast.Subscript):
        first = first.value
    if not isinstance(first, ast.Name):
        return None
    if first.id in ("self", "cls"):
        return module.tree.class_of(node) or module.root
    if first is not node and "." in (key(node) or ""):
        return None
    found = module.names.lookup(first.id, first)
    return found[0] if found is not None else module.root


def _bound_to(module: Module, node: ast.Name, depth: int) -> Iterator[Place]:
    found = module.names.lookup(node.id, node)
    for binding in found[1] if found is not None else ():
        if binding.kind == "loop" and binding.value is not None:
            target = binding.node.target  # type: ignore[attr-defined]
            for over in _element(target, binding.value, node.id):
                yield from _each_of(module, over, depth + 1)
        elif binding.kind == "assign" and isinstance(binding.value, _SPELLINGS) and key(binding.value) != node.id:
            yield from places_of(module, binding.value, depth=depth + 1)
    for holder in module.once("names held by self", lambda: _held_by_self(module)).get(node.id, ()):
        if found is not None and module.tree.scope(holder) is found[0]:
            yield Place(key(holder) or "", module.tree.class_of(holder))


def _held_by_self(module: Module) -> dict[str, list[ast.Attribute]]:
    """Return the attributes that names are put into: by `self.opt = optimizer`, both are one object."""
    held: dict[str, list[ast.Attribute]] = {}
    for node in module.tree.all(ast.Assign):
        if isinstance(node.value, ast.Name):
            own = (t for t in node.targets if isinstance(t, ast.Attribute) and key(t.value) == "self")
            held.setdefault(node.value.id, []).extend(own)
    return held


def _element(target: ast.expr, over: ast.expr, name: str) -> Iterator[ast.expr]:
    """Walk what a loop takes a name's values from: each part of a `zip` for itself, what `enumerate` counts."""
    if isinstance(over, ast.Call) and called(over) in ("enumerate", "reversed", "list", "tuple", "sorted", "tqdm"):
        rest = target.elts[1] if called(over) == "enumerate" and isinstance(target, ast.Tuple) else target
        for given in over.args[:1]:
            yield from _element(rest, given, name)
    elif isinstance(over, ast.Call) and called(over) == "zip" and isinstance(target, ast.Tuple):
        for part, given in zip(target.elts, over.args, strict=False):
            yield from _element(part, given, name) if name in _names(part) else ()
    elif isinstance(over, ast.Call) and called(over) in ("values", "items") and receiver(over) is not None:
        last = target.elts[-1] if isinstance(target, ast.Tuple) and called(over) == "items" else target
        if name in _names(last) or called(over) == "values":
            yield receiver(over)  # type: ignore[misc]
    elif (isinstance(over, ast.Call) and called(over) == "vars") or (key(over) or "").endswith("__dict__"):
        yield over
    elif isinstance(over, ast.Tuple | ast.List) and isinstance(target, ast.Tuple):
        position = next((i for i, t in enumerate(target.elts) if name in _names(t)), 0)
        for part in over.elts:
            if isinstance(part, ast.Tuple | ast.List) and position < len(part.elts):
                yield ast.List([part.elts[position]])
    else:
        yield over


def _names(target: ast.expr) -> list[str]:
    return [n.id for n in walk(target) if isinstance(n, ast.Name)]


def _each_of(module: Module, over: ast.expr, depth: int) -> Iterator[Place]:
    """Walk the places of what lies in a container."""
    if isinstance(over, ast.List | ast.Tuple | ast.Dict):
        for part in over.values if isinstance(over, ast.Dict) else over.elts:
            yield from places_of(module, part, depth=depth + 1) if depth < _DEPTH else ()
        return
    if (isinstance(over, ast.Call) and called(over) == "vars") or "__dict__" in (key(over) or ""):
        cls = module.tree.class_of(over)
        yield Place("self.*", cls)
        return
    for place in places_of(module, over, depth=depth):
        yield Place(f"{place.name}[]", place.home)
        for part in members(module).get(place, ()) if depth < _DEPTH else ():
            yield from places_of(module, part, depth=depth + 1)


def members(module: Module) -> dict[Place, list[ast.expr]]:
    """Return what is put into containers: by literals, `append`, `x["k"] = ...`."""
    return module.once("members of containers", lambda: _members(module))


def _members(module: Module) -> dict[Place, list[ast.expr]]:
    found: dict[Place, list[ast.expr]] = {}
    for node in module.tree.all(ast.Assign):
        for target in node.targets:
            at = target.value if isinstance(target, ast.Subscript) else target
            value = node.value
            parts = [value] if isinstance(target, ast.Subscript) else _parts(value)
            if parts and (name := key(at)) is not None:
                found.setdefault(Place(name, _home(module, at)), []).extend(parts)
    for call in module.calls_of("append", "add", "extend"):
        owner = receiver(call)
        if call.args and (name := key(owner)) is not None and owner is not None:
            parts = _parts(call.args[0]) or [call.args[0]]
            found.setdefault(Place(name, _home(module, owner)), []).extend(parts)
    return found


def _parts(value: ast.expr) -> list[ast.expr]:
    if isinstance(value, ast.Dict):
        return list(value.values)
    if isinstance(value, ast.Call) and called(value) in ("dict", "OrderedDict"):
        return [k.value for k in value.keywords]
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else []


def _given_by(module: Module, node: ast.Call, depth: int) -> Iterator[Place]:
    """Walk the places of `getattr(self, "x")`, `unwrap(x)`, `x.get("k")`."""
    name = called(node)
    if name == "getattr" and len(node.args) > 1:
        base, word = key(node.args[0]), node.args[1]
        last = str(word.value) if isinstance(word, ast.Constant) else "*"
        if base is not None:
            own = module.tree.class_of(node) or module.root
            yield Place(f"{base}.{last}", own if base == "self" else None)
    elif name in ("get", "pop") and receiver(node) is not None:
        yield from (Place(f"{p.name}[]", p.home) for p in places_of(module, receiver(node), depth=depth + 1))
    elif len(node.args) == 1 and ("unwrap" in name or name in ("cast", "de_parallel", "get_optimizer")):
        yield from places_of(module, node.args[0], depth=depth + 1)


def last_name(name: str) -> str:
    """Return what stands behind the last dot: "opt" for "self.opt"."""
    return name.rpartition(".")[2]
