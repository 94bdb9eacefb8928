"""Schedules: their moves, the steps beside them, what one was made from, and the loops and tests around a move."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, same_function, target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, Loop, argument, called, key, receiver
from ampguard.auditing.rules.amp._steps import callers, tests_above

_MAKES = regex(r"get_\w*schedule\w*")
_EPOCHS = regex(r"epoch", re.IGNORECASE)
_BATCHES = regex(r"load|batch|data|\bdl\b|enumerate|prefetch|log_every", re.IGNORECASE)


def moves(module: Module) -> list[ast.Call]:
    """Return the calls that move a schedule on by one: with an argument it follows a metric, or an epoch it is told."""
    return module.once("moves of schedules", lambda: [c for c in module.calls_of("step") if _is_move(module, c)])


def _is_move(module: Module, call: ast.Call) -> bool:
    return not call.args and not call.keywords and is_scheduler(module, receiver(call))


def optimizer_steps(module: Module) -> list[tuple[ast.Call, str]]:
    """Return the calls that step an optimizer, by itself or through a scaler, each with the optimizer's key."""
    return module.once("steps by optimizer", lambda: list(_optimizer_steps(module)))


def _optimizer_steps(module: Module) -> Iterator[tuple[ast.Call, str]]:
    for call in module.calls_of("step"):
        owner = receiver(call)
        stepped = argument(call, 0, "optimizer") if is_scaler(module, owner) else owner
        place = key(stepped)
        if place is not None and (stepped is not owner or is_optimizer(module, owner)):
            yield call, place


def is_schedule_made(module: Module, node: ast.AST | None) -> bool:
    """Whether an expression constructs a schedule of torch, or one of the functions of transformers that make one."""
    if not isinstance(node, ast.Call):
        return False
    names = module.names.dotted(node.func)
    return any(".lr_scheduler." in name and not name.endswith("ReduceLROnPlateau") for name in names) or bool(
        _MAKES.fullmatch(called(node))
    )


def made_from(module: Module, owner: ast.expr | None) -> list[tuple[Module, ast.Call]]:
    """Return the calls that make the schedule that moves here: in its scope or class, or where its function is called.

    Each comes with its file. None where something else may have made it.
    """
    values = assigned(module, owner) if owner is not None else []
    found = [v for v in values if isinstance(v, ast.Call) and is_schedule_made(module, v)]
    if values or not isinstance(owner, ast.Name):
        others = [v for v in values if v not in found and not _is_none(v) and not _follows_metric(v)]
        return [(module, v) for v in found] if not others else []
    function = module.tree.function(owner)
    given = _handed(module, function, owner.id) if function is not None else ()
    values_given = ((where, v) for where, g in given for v in assigned(where, g))
    return [(where, v) for where, v in values_given if isinstance(v, ast.Call) and is_schedule_made(where, v)]


def _handed(module: Module, function: Function, name: str) -> Iterator[tuple[Module, ast.expr]]:
    """Walk what the callers of a function give to one parameter, those in files that make a schedule too."""
    names = [arg.arg for arg, _ in parameters(function)]
    if name not in names:
        return
    position = names.index(name) - (names[0] in ("self", "cls"))
    for where, call in _calls_anywhere(module, function):
        given = argument(call, position, name)
        if given is not None:
            yield where, given


def _calls_anywhere(module: Module, function: Function) -> Iterator[tuple[Module, ast.Call]]:
    yield from ((module, call) for call in callers(module, function))
    stem = module.path.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
    for path, text in module.project.texts("lr_scheduler", "_schedule"):
        near = path != module.path and f"{function.name}(" in text and stem in text and "test" not in path
        other = module.project.module(path) if near else None
        for call in other.calls.get(function.name, ()) if other is not None else ():
            place = target(other, call) if other is not None else None
            if other is not None and place is not None and same_function(place, (module, function)):
                yield other, call


def _follows_metric(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and called(value) == "ReduceLROnPlateau"


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def own_tests(module: Module, move: ast.Call, around: ast.AST) -> list[ast.expr]:
    """Return the tests between a move and what is around it, but for those that ask whether there is a schedule."""
    tests = (test for test, _ in tests_above(module, move) if module.tree.inside(test, around))
    return [test for test in tests if not asks_for_one(test)]


def asks_for_one(test: ast.expr) -> bool:
    """Whether a test asks no more than whether there is a schedule."""
    text = ast.unparse(test)
    return "sched" in text.lower() and "%" not in text and "==" not in text and "epoch" not in text


def goes_over_epochs(loop: Loop) -> bool:
    """Whether a loop's head speaks of epochs."""
    head = [loop.test] if isinstance(loop, ast.While) else [loop.iter, loop.target]
    return any(_EPOCHS.search(ast.unparse(part)) for part in head) and not goes_over_batches(loop)


def goes_over_batches(loop: Loop) -> bool:
    """Whether a loop's head speaks of what gives batches."""
    return not isinstance(loop, ast.While) and bool(_BATCHES.search(ast.unparse(loop.iter)))


def runs_another(module: Module, call: ast.Call, place: str) -> ast.Call | None:
    """Return a move in the function that a call runs, of the schedule that is handed over, or is `self`'s own."""
    found = target(module, call, ("sched",))
    if found is None:
        return None
    where, function = found
    names = [arg.arg for arg, _ in parameters(function)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    handed = {key(g): n for n in names if (g := argument(call, names.index(n), n)) is not None}
    inner = place if place.startswith("self.") and key(receiver(call)) == "self" else handed.get(place)
    own = (m for m in moves(where) if where.tree.function(m) is function and key(receiver(m)) == inner)
    return next(own, None) if inner is not None else None
