"""Models in float16: cast or loaded so where they are used, or in a function of the project, whatever that is told."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, key, walk, walk_scope
from ampguard.auditing.rules.amp._precision.cast_models import before_moves
from ampguard.auditing.rules.amp._precision.half_models import model_of, taken_back, to_half
from ampguard.auditing.rules.amp._precision.trained_parameters import optimizer_of
from ampguard.auditing.rules.amp._steps import enclosing, tests_above

_LOADS = ("from_pretrained(", ".half(", "float16")
_CASTS = ("half", "to", "from_pretrained")

_OWN_COPIES = (
    *("master", "FP16_", "FP16Opt", "bitsandbytes", "bnb", "stochastic"),
    *("peft", "lora", "LoRA"),
)
"""What keeps the parameters, or what is added to them, in float32 by itself."""


def trained_in_half(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the cast, the model) of models in float16 whose own parameters an optimizer steps, where one trains."""
    if module.mentions(_OWN_COPIES):
        return
    for call, place in in_half(module):
        if optimizer_of(module, place, call) is None or taken_back(module, place, call):
            continue
        around = module.tree.class_of(call) or enclosing(module, call)
        if any(module.tree.inside(c, around) and not c.args for c in module.calls_of("backward")):
            yield call, place


def in_half(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the casts to float16, and the calls that load a model so, with the key of the model."""
    for call in module.calls_of(*_CASTS):
        place = model_of(module, call) if to_half(module, call) else None
        if place is not None:
            yield call, place
    yield from _loaded_half(module)


def _loaded_half(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the call of such a function, the key that its model is assigned to)."""
    if module.mentions(("peft", "lora", "Lora", "LoRA")):
        return
    names = module.project.defined_where(_LOADS)
    for call in (c for name in names & module.calls.keys() for c in module.calls[name]):
        statement = module.tree.statement(call)
        if isinstance(statement, ast.Assign) and before_moves(statement.value) is call:
            place = target(module, call, _LOADS)
            parts = _paired(statement.targets[0], place[1]) if place is not None else []
            yield from ((call, bound) for bound, given in parts if place is not None and _is_half(*place, given))


def _paired(bound: ast.expr, function: Function) -> list[tuple[str, ast.expr]]:
    """Return the keys that the one return of a function is assigned to, each with what it is given."""
    values = [n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None]
    if len(values) != 1:
        return []
    both = (bound, values[0])
    if all(isinstance(side, ast.Tuple) for side in both):
        pairs = list(zip(bound.elts, values[0].elts, strict=False))  # type: ignore[attr-defined]
    else:
        pairs = [both]
    return [(place, given) for to, given in pairs if (place := key(to)) is not None]


def _is_half(where: Module, function: Function, returned: ast.expr) -> bool:
    """Whether what is returned was cast to float16 under no test, and left so."""
    for cast in where.calls_of(*_CASTS):
        if where.tree.function(cast) is not function or any(tests_above(where, cast)) or not to_half(where, cast):
            continue
        if any(at is cast for at in walk(returned)):
            return True
        place = model_of(where, cast)
        if place is not None and place == key(returned) and not taken_back(where, place, cast):
            return True
    return False
