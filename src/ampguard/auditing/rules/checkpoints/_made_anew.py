"""Scalers that a method makes again after another method, which runs before it, has loaded their state."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import class_of_object
from ampguard.auditing.reading.checkpoints import restored
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope

_LOADS = regex(r"_*(auto_?)?(load|resume|restore)_?\w*")
_TRAINS = regex(r"_*(fit|train|run|learn)(_\w+)?|\w+_(fit|train|loop|training)")
_DEPTH = 3


@dataclass(frozen=True)
class Anew:
    """A load, the construction after it, the scaler's place, and whether the order is certain."""

    load: ast.Call
    made: ast.Call
    place: str
    certain: bool


def made_anew(module: Module) -> Iterator[Anew]:
    """Walk the loads of a class's scaler that a later construction of it in another method makes void."""
    told: set[ast.stmt] = set()  # `A() if closures else B()` makes one
    for made in scaler_constructions(module):
        if module.tree.statement(made) in told:
            continue
        told.add(module.tree.statement(made))
        function, cls = module.tree.function(made), module.tree.class_of(made)
        place = _place(module, made)
        if function is None or cls is None or place is None or function.name == "__init__":
            continue
        starts = _run_by(cls, "__init__")
        if function.name in starts or not _TRAINS.fullmatch(function.name) or _asks(module, made, place, function):
            continue
        inner = _run_by(cls, function.name)
        for load, whole in _loads_of(module, cls, place):
            method = module.tree.function(load)
            name = method.name if method is not None else ""
            certain = name in ("__init__", *starts)
            if name in (function.name, *inner) or (not certain and (whole or not _made_before(module, cls, place))):
                continue
            yield Anew(load, made, place, certain and not whole)
            break


def _place(module: Module, made: ast.Call) -> str | None:
    statement = module.tree.statement(made)
    place = key(statement.targets[0]) if isinstance(statement, ast.Assign) else None
    return place if place is not None and place.startswith("self.") else None


def _run_by(cls: ast.ClassDef, name: str) -> set[str]:
    """Return the methods of a class that one of them runs, through others too."""
    methods = {item.name: item for item in cls.body if isinstance(item, FUNCTIONS)}
    found: set[str] = set()
    asked = [name]
    for _ in range(_DEPTH):
        asked = [
            called(node)
            for one in asked
            if one in methods
            for node in walk_scope(methods[one])
            if isinstance(node, ast.Call) and key(receiver(node)) == "self"
        ]
        found |= set(asked)
    return found


def _asks(module: Module, made: ast.Call, place: str, function: Function) -> bool:
    """Whether the construction runs only where the scaler is not there yet."""
    last = place.rpartition(".")[2]
    for at in module.tree.above(made):
        if at is function:
            return False
        if isinstance(at, ast.If | ast.IfExp) and last in ast.unparse(at.test):
            return True
    return False


def _loads_of(module: Module, cls: ast.ClassDef, place: str) -> Iterator[tuple[ast.Call, bool]]:
    """Walk the loads of a scaler's state in the class, and of a whole object that holds it (then True)."""
    for load in restored(module).get("scaler", ()):
        if key(receiver(load)) == place and module.tree.class_of(load) is cls:
            yield load, False
    holder = place.rpartition(".")[0]
    if holder == "self":
        return
    for name, calls in module.calls.items():
        for call in calls if _LOADS.fullmatch(name) else ():
            given = [receiver(call), *call.args, *(k.value for k in call.keywords)]
            at = next((a for a in given if a is not None and key(a) == holder), None)
            if at is not None and module.tree.class_of(call) is cls and _keeps_scaler(module, at):
                yield call, True


def _keeps_scaler(module: Module, holder: ast.expr) -> bool:
    """Whether an object's class takes states, and its file speaks of a scaler."""
    found = class_of_object(module, holder)
    if found is None or not found[0].mentions(("scaler",)):
        return False
    return any(isinstance(item, FUNCTIONS) and item.name == "load_state_dict" for item in found[1].body)


def _made_before(module: Module, cls: ast.ClassDef, place: str) -> bool:
    """Whether the class's `__init__` makes the scaler already, so that its state can be loaded before training."""
    starts = ("__init__", *_run_by(cls, "__init__"))
    return any(
        module.tree.class_of(other) is cls
        and _place(module, other) == place
        and getattr(module.tree.function(other), "name", "") in starts
        for other in scaler_constructions(module)
    )
