"""Scalers inside a class of the project that are always on, where a flag switches the autocast they scale for.

`loss_scaler = NativeScaler()` in one file, the class with its `GradScaler()` in another, and `autocast(enabled=flag)`
in the function that runs it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import constructed, target
from ampguard.auditing.reading.kinds import scaler_constructions
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.precision import Region, truth
from ampguard.auditing.reading.tree import FUNCTIONS, Function, argument, key, receiver
from ampguard.auditing.rules.amp._precision.always_on import asked, switched
from ampguard.auditing.rules.amp._steps import enclosing, tests_above


def wrapped_always_on(module: Module) -> Iterator[tuple[ast.Call, Region, Module]]:
    """Walk (the construction, the autocast that a flag switches, its file) of such scalers."""
    names = [n for n in module.calls if "caler" in n and not n.endswith("GradScaler")]
    for made in (c for name in names for c in module.calls[name]):
        statement = module.tree.statement(made)
        place = key(statement.targets[0]) if isinstance(statement, ast.Assign) and statement.value is made else None
        if place is None or made.args or made.keywords or any(tests_above(module, made)):
            continue
        cls = constructed(module, made, ("GradScaler",))
        if cls is None or not _always_scales(*cls):
            continue
        found = _beside(module, place) or _handed(module, place)
        if found is not None:
            yield made, *found


def _always_scales(where: Module, cls: ast.ClassDef) -> bool:
    """Whether a class makes one scaler, which no flag or test switches, and scales with it whenever it is run."""
    made = [c for c in scaler_constructions(where) if where.tree.inside(c, cls)]
    if len(made) != 1 or any(tests_above(where, made[0])) or any(k.arg is None for k in made[0].keywords):
        return False
    if not _is_on(where, cls, argument(made[0], None, "enabled")):
        return False
    uses = [c for c in where.calls.get("scale", ()) if where.tree.inside(c, cls) and c.args]
    return bool(uses) and not any(asked(where, c) for c in uses)


def _is_on(where: Module, cls: ast.ClassDef, flag: ast.expr | None) -> bool:
    """Whether what switches a scaler is True, or an argument that is True where none is given."""
    if flag is None or truth(where, flag) is True:
        return True
    made = next((f for f in cls.body if isinstance(f, FUNCTIONS) and f.name == "__init__"), None)
    given = {a.arg: value for a, value in parameters(made)} if made is not None else {}
    default = given.get(flag.id) if isinstance(flag, ast.Name) else None
    return isinstance(default, ast.Constant) and default.value is True


def _beside(module: Module, place: str) -> tuple[Region, Module] | None:
    """Return the switched autocast of a function of this file that runs a scaler of that name, whatever is asked."""
    for use in module.calls.get(place.rpartition(".")[2], ()):
        region = switched(module, enclosing(module, use)) if key(use.func) == place and use.args else None
        if region is not None and not asked(module, use):
            return region, module
    return None


def _handed(module: Module, place: str) -> tuple[Region, Module] | None:
    """Return the switched autocast of a function of another file that is handed the scaler."""
    for calls in module.calls.values():
        for call in calls:
            if place not in [key(a) for a in (*call.args, *(k.value for k in call.keywords))]:
                continue
            found = target(module, call, ("autocast",))
            region = switched(*found) if found is not None and found[0] is not module else None
            if found is None or region is None:
                continue
            runs = list(_runs(*found, place))
            if runs and not any(asked(found[0], c) for c in runs):
                return region, found[0]
    return None


def _runs(where: Module, function: Function, place: str) -> Iterator[ast.Call]:
    """Walk what runs the scaler in a function that has it under its own name: called itself, or by a method."""
    word = place.rpartition(".")[2]
    for call in (*where.calls.get(word, ()), *where.calls.get("scale", ())):
        if where.tree.function(call) is function and call.args:
            owner = call.func if key(call.func) == word else receiver(call)
            if key(owner) == word:
                yield call
