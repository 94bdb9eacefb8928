"""Which objects' state a file saves, and which it takes up again: by the object, wherever the dictionary goes.

A checkpoint's dictionary may be open in some part; the state of a given object can be in it only where some code reads
that state, or was handed the object. That is what is asked here, and it is asked of one object at a time.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases, constructed, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.object_places import Place, places_of
from ampguard.auditing.reading.owned import Owned, owned
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk, walk_scope

_STATES = regex(r"\w*(state_?dict|(get|set|load|save)_states?)(_to_load)?|__[gs]etstate__", re.I)
_GIVES = regex(r"load|set|restore")
"""Methods that give a state to their object; the others read it."""

_SAVES = regex(
    r"save|ckpt|checkpoint|snapshot|state|persist|register|dump|store|pickle|handler|setup|attach|backup", re.I
)
_LOADS = regex(
    r"load|resume|restore|ckpt|checkpoint|snapshot|state|register|setup|handler|recover|continue|init|attach", re.I
)
_ONLY_LOADS = regex(r"^_*(auto_?)?(load|resume|restore|recover)", re.I)
_ONLY_SAVES = regex(r"^_*(save|write|dump|store)", re.I)
_HOLDS = regex(
    r"Trainer|Engine|Learner|Runner|Manager|Saver|Handler|Agent|Solver|Experiment|Estimator|State|Session|Context|Container|Module$"
)
_ELSEWHERE = regex(r"(\w+)(?:\[[^\]\n]*\])?\.(\w+)(?:\[[^\]\n]*\])?(?:\.\w+)?\.(?:load_)?state_dict\(")
_CAUGHT_UP = regex(r"sched\w*\.(last_epoch|_step_count)\s*=(?!=)")
"""A schedule that is put to where it was by hand."""

_CLASS = regex(r"^class (\w+)\s*\(([^)]*)\)", re.MULTILINE)
_DEPTH = 3


class Stated(NamedTuple):
    """A place where an object's state is read, or given to it."""

    place: Place
    call: ast.Call


def stated(module: Module, *, loads: bool = False) -> list[Stated]:
    """Return the objects whose state is read, or loaded, with the calls."""
    return module.once(("stated objects", loads), lambda: list(_stated(module, loads)))


def _stated(module: Module, loads: bool) -> Iterator[Stated]:
    for name, calls in module.calls.items():
        if not _STATES.fullmatch(name) or bool(_GIVES.search(name)) is not loads:
            continue
        for call in calls:
            objects = [receiver(call), *(call.args if name not in ("state_dict", "load_state_dict") else ())]
            for node in objects:
                yield from (Stated(place, call) for place in places_of(module, node))


def is_kept(module: Module, one: Owned, *, loads: bool = False) -> bool:
    """Whether the state of an object may be saved, or loaded, by anything that this file leads to."""
    question = ("is kept", one.place, loads)
    if one.kind == "scheduler" and module.project.says(_CAUGHT_UP, "last_epoch", "_step_count"):
        return True
    return module.once(question, lambda: any(_is_kept(module, p, loads) for p in (one.place, *one.aliases)))


def _is_kept(module: Module, place: Place, loads: bool) -> bool:
    if any(one.place.covers(place) for one in stated(module, loads=loads)):
        return True
    if any(may_keep(module, call, node, loads) for call, node in _handed(module, place)):
        return True
    if loads and _made_from_state(module, place):
        return True
    if isinstance(place.home, ast.ClassDef):
        return _of_family(module, place, place.home, loads) or _bare(place.name) in _read_elsewhere(module)
    return place.home is None and _bare(place.name) in _read_elsewhere(module)


def _made_from_state(module: Module, place: Place) -> bool:
    """Whether an object comes from a function of the project that gives it a state before it returns it."""
    for made in _values_of(module, place):
        found = target(module, made) if isinstance(made, ast.Call) else None
        if found is None:
            continue
        where, function = found
        back = [n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None]
        names = {key(value) for value in back}
        if any(one.place.home is function and one.place.name in names for one in stated(where, loads=True)):
            return True
    return False


def _values_of(module: Module, place: Place) -> list[ast.expr]:
    """Return what is assigned to a place, as a whole."""
    nodes = (n for n in module.tree.all(ast.Assign) if any(key(t) == place.name for t in n.targets))
    return [n.value for n in nodes if place.home is None or module.tree.inside(n, place.home)]


def _bare(name: str) -> str:
    return name.rpartition(".")[2].partition("[")[0]


def _read_elsewhere(module: Module) -> frozenset[str]:
    """Return the attributes of other objects than `self` whose state some file of the project reads or loads."""
    memo = module.project.memo
    if "attributes whose state is read" not in memo:
        found = set()
        for path, text in module.project.texts("state_dict"):
            if "test" not in path:
                lines = (line for line in text.splitlines() if "state_dict(" in line)
                found |= {last for line in lines for owner, last in _ELSEWHERE.findall(line) if owner != "self"}
        memo["attributes whose state is read"] = frozenset(found)
    known: frozenset[str] = memo["attributes whose state is read"]
    return known


def _handed(module: Module, place: Place) -> Iterator[tuple[ast.Call, ast.expr]]:
    for one, call, node in module.once("objects handed over", lambda: list(_all_handed(module))):
        if one.covers(place) and one.name != "self":
            yield call, node
    for node in module.once("objects in dictionaries", lambda: list(_in_dictionaries(module))):
        if any(one.covers(place) for one in places_of(module, node)):
            yield ast.Call(ast.Name("save"), [], []), node


def _all_handed(module: Module) -> Iterator[tuple[Place, ast.Call, ast.expr]]:
    names = _known_names(module)
    for calls in module.calls.values():
        for call in calls:
            for given in (*call.args, *(k.value for k in call.keywords)):
                for node in _objects(given):
                    if _bare(key(node) or "") in names:
                        yield from ((place, call, given) for place in places_of(module, node))


def _known_names(module: Module) -> set[str]:
    """Return the last names of what may be an optimizer or a schedule, and of what is assigned one."""
    names = {_bare(p.name) for one in owned(module) for p in (one.place, *one.aliases)}
    for node in module.tree.all(ast.Assign):
        value = node.value
        parts = (
            value.elts
            if isinstance(value, ast.List | ast.Tuple)
            else value.values
            if isinstance(value, ast.Dict)
            else [value]
        )
        if any(_bare(key(part) or "") in names for part in (*parts, *_branches(value))):
            names |= {_bare(key(target) or "") for target in node.targets}
    return names | {arg.arg for f in module.functions for arg, _ in parameters(f) if _BY_NAME.search(arg.arg)}


_BY_NAME = regex(r"opt|sched", re.I)


def _branches(value: ast.expr) -> list[ast.expr]:
    return [value.body, value.orelse] if isinstance(value, ast.IfExp) else []


def _objects(given: ast.expr) -> Iterator[ast.expr]:
    if isinstance(given, ast.List | ast.Tuple | ast.Set):
        for part in given.elts:
            yield from _objects(part)
    elif isinstance(given, ast.Starred):
        yield from _objects(given.value)
    elif isinstance(given, ast.Name | ast.Attribute | ast.Subscript):
        yield given


def _in_dictionaries(module: Module) -> Iterator[ast.expr]:
    """Walk the objects that dictionaries hold: whoever saves such a one as a whole keeps them."""
    for node in module.tree.all(ast.Dict):
        yield from (v for v in node.values if isinstance(v, ast.Name | ast.Attribute | ast.Subscript))
    for call in module.calls_of("dict", "OrderedDict", "update"):
        yield from (k.value for k in call.keywords if isinstance(k.value, ast.Name | ast.Attribute))


def may_keep(module: Module, call: ast.Call, given: ast.expr, loads: bool, *, depth: int = 0) -> bool:
    """Whether a call may save, or load, the state of an object that it is given."""
    name = called(call)
    if not name:
        return False
    if name == "save" and not hasattr(call, "lineno"):
        return True
    if name == "prepare":
        return "save_state(" in module.text or "load_state(" in module.text
    if (_ONLY_LOADS if not loads else _ONLY_SAVES).search(name):
        return False
    takes = bool((_LOADS if loads else _SAVES).search(name))
    place = target(module, call)
    if place is not None and depth < _DEPTH:
        parameter = _parameter(call, place[1], given)
        if parameter is None:
            return takes or place[1].args.kwarg is not None or place[1].args.vararg is not None
        return _keeps_parameter(*place, parameter, loads, depth)
    if constructed(module, call) is not None:
        return False  # a class of the project that takes nothing by `__init__`
    return takes or (name[:1].isupper() and bool(_HOLDS.search(name)))


def _parameter(call: ast.Call, function: Function, given: ast.expr) -> str | None:
    """Return the parameter that an argument arrives as; None where it goes into `*args`, `**kwargs`."""
    named = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if named[:1] in (["self"], ["cls"]):
        named = named[1:]
    for position, value in enumerate(call.args):
        if isinstance(value, ast.Starred):
            return None
        if value is given:
            return named[position] if position < len(named) else None
    known = {arg.arg for arg, _ in parameters(function)}
    return next((k.arg for k in call.keywords if k.value is given and k.arg in known), None)


def _keeps_parameter(where: Module, function: Function, name: str, loads: bool, depth: int) -> bool:
    question = ("keeps parameter", function, name, loads)
    return where.once(question, lambda: _find_keeping(where, function, name, loads, depth))


def _find_keeping(where: Module, function: Function, name: str, loads: bool, depth: int) -> bool:
    own = Place(name, function)
    if any(one.place.covers(own) for one in stated(where, loads=loads)):
        return True
    for node in walk(function):
        if isinstance(node, ast.Assign) and key(node.value) == name:
            for bound in node.targets:
                cls = where.tree.class_of(function)
                if (key(bound) or "").startswith("self.") and cls is not None:
                    held = Place(key(bound) or "", cls)
                    if _is_kept_within(where, held, loads, depth):
                        return True
                elif key(bound) != name:
                    return True
        elif isinstance(node, ast.Call):
            for given in (*node.args, *(k.value for k in node.keywords)):
                is_given = any(key(o) == name for o in _objects(given))
                if is_given and may_keep(where, node, given, loads, depth=depth + 1):
                    return True
        elif isinstance(node, ast.Dict) and any(key(v) == name for v in node.values):
            return True
    return False


def _is_kept_within(where: Module, held: Place, loads: bool, depth: int) -> bool:
    """Whether a class keeps what it was given as an attribute."""
    if any(one.place.covers(held) for one in stated(where, loads=loads)):
        return True
    if _bare(held.name) in _read_elsewhere(where) or _of_family(where, held, held.home, loads):  # type: ignore[arg-type]
        return True
    return depth < _DEPTH and any(
        may_keep(where, call, node, loads, depth=depth + 1) for call, node in _handed(where, held)
    )


def _of_family(module: Module, place: Place, cls: ast.ClassDef, loads: bool) -> bool:
    """Whether a base class, or one that builds on this, keeps an attribute."""
    for where, base in (*bases(module, cls), *derived(module, cls)):
        held = Place(place.name, base)
        if any(one.place.covers(held) for one in stated(where, loads=loads)):
            return True
        if any(may_keep(where, call, node, loads, depth=1) for call, node in _handed(where, held)):
            return True
    return False


def derived(module: Module, cls: ast.ClassDef) -> list[tuple[Module, ast.ClassDef]]:
    """Return the classes of the project that build on a class, with their files."""
    return module.once(("derived classes", cls), lambda: list(_derived(module, cls)))


def _derived(module: Module, cls: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
    for path in _heirs(module).get(cls.name, ()):
        where = module if path == module.path else module.project.module(path)
        for child in where.tree.all(ast.ClassDef) if where is not None else ():
            if child is not cls and any(base.name == cls.name for _, base in bases(where, child)):  # type: ignore[arg-type]
                yield where, child  # type: ignore[misc]


def _heirs(module: Module) -> dict[str, list[str]]:
    """Return the files by the bases that their classes name."""
    memo = module.project.memo
    if "files by bases" not in memo:
        found: dict[str, list[str]] = {}
        for path, text in module.project.texts("class "):
            for _, given in _CLASS.findall(text):
                for base in dict.fromkeys(re.findall(r"\w+", given)):
                    if path not in found.setdefault(base, []):
                        found[base].append(path)
        memo["files by bases"] = found
    known: dict[str, list[str]] = memo["files by bases"]
    return known


def related(module: Module, one: ast.ClassDef | None, other: ast.ClassDef | None) -> bool:
    """Whether two classes of a file are one, or one builds on the other."""
    if one is None or other is None:
        return False
    return (
        one is other or any(b is other for _, b in bases(module, one)) or any(b is one for _, b in bases(module, other))
    )
