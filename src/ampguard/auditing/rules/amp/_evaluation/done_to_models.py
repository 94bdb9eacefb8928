"""What a call does to models that its caller knows, as far as the project can be read: modes, and passes over them."""

import ast
import re
from dataclasses import dataclass

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, attributes, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.names_in_calls import names_in
from ampguard.auditing.rules.amp._evaluation.runs import source
from ampguard.auditing.rules.amp._evaluation.same_models import bare
from ampguard.auditing.rules.amp._evaluation.trained_here import NAMES_TRAINING

CHANGES = (".eval()", ".train(", ".backward(")
"""Words without which a function does nothing to a model that is asked about here."""

TRAINS = regex(
    r"\.train\((?!(mode=)?False)|set_mode|\.training\b|train_mode"
    r"|(with |@)[^\n]*(eval_mode\b|evaluating\(|eval_context)"
)
"""What may put a model back into training mode."""

_KEEPS_MODE = regex(r"ema|swa|averag|optim|scaler|sched|writer|log(ger)?$|meter|metric", re.IGNORECASE)
"""Objects whose methods are named after updates and steps, and read a model alone."""

_DEPTH = 3
"""Calls followed from a loop into the project."""


@dataclass(frozen=True)
class Done:
    """What a call does, as far as it can be read: the models it leaves in evaluation mode, and its passes."""

    evaluated: frozenset[str] = frozenset()
    trains: bool = False
    may_put_back: bool = False


def switches_off(call: ast.Call) -> bool:
    """Whether a call is `model.eval()` or `model.train(False)`."""
    if receiver(call) is None or called(call) not in ("eval", "train"):
        return False
    given = [*call.args, *(k.value for k in call.keywords)]
    off = len(given) == 1 and isinstance(given[0], ast.Constant) and given[0].value is False
    return off if called(call) == "train" else not given


def done_by(module: Module, call: ast.Call, known: set[str], depth: int = 0) -> Done:
    """Return what a call does to the models of these keys."""
    if called(call) == "backward" and receiver(call) is not None:
        return Done(trains=True)
    if switches_off(call):
        return Done(frozenset({bare(receiver(call)) or ""} & known))
    given = [*call.args, *(k.value for k in call.keywords)]
    handed = any(_holds(bare(a), known) for a in given) or key(receiver(call)) == "self"
    place = target(module, call, CHANGES)
    if place is None:
        return Done(may_put_back=handed and _may_put_back(module, call))
    return _inside(module, call, place, known, depth) if depth < _DEPTH else Done()


def _holds(place: str | None, known: set[str]) -> bool:
    """Whether a key is that of a model, or of an object that holds one."""
    return place is not None and any(model == place or model.startswith(f"{place}.") for model in known)


def _may_put_back(module: Module, call: ast.Call) -> bool:
    """Whether a call that cannot be read is named after training: what another file defines may be read after all."""
    owner = module.tree.class_of(call)
    own = key(receiver(call)) == "self"
    if own and owner is not None and called(call) in attributes(module, owner):
        return False
    if _KEEPS_MODE.search(key(receiver(call)) or ""):
        return False
    return bool(NAMES_TRAINING.search(called(call))) and target(module, call) is None


def _inside(module: Module, call: ast.Call, place: Place, known: set[str], depth: int) -> Done:
    """Return what a function of the project does, with the models under the caller's keys."""
    where, function = place
    text = source(where, function)
    if TRAINS.search(text) or _is_left_to_subclasses(function):
        return Done(may_put_back=True)
    names = names_in(module, call, place, known)
    found = [n for n in walk_scope(function) if isinstance(n, ast.Call)]
    below = [done_by(where, c, set(names), depth + 1) for c in found]
    trains = [at for at, d in enumerate(below) if d.trains]
    before = below[: trains[0]] if trains else []
    return Done(
        frozenset(names[name] for d in below for name in d.evaluated),
        bool(trains),
        any(d.may_put_back for d in below) or any(d.evaluated for d in before),  # a step that trains so means it
    )


def _is_left_to_subclasses(function: Function) -> bool:
    """Whether a function is abstract: who knows what is written for it."""
    return isinstance(function.body[-1], ast.Raise) or any(
        "abstract" in ast.unparse(d) for d in function.decorator_list
    )
