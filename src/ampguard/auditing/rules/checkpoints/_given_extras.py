"""States that are whole but for what their caller may add: `state.update(extra)`, of a parameter that may be left out.

A trainer's own `save_checkpoint(path, extra=None)` has to be enough to go on from; what a caller adds is the caller's.
That nobody adds a schedule is told by the project, where no file speaks of the state of one.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import Save
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.payloads import Contents, changes_argument, contents
from ampguard.auditing.reading.tree import Function, called, is_none_literal, key, receiver, walk_scope
from ampguard.auditing.rules.checkpoints._schedule_elsewhere import kept_anywhere


def whole_but_for_extras(module: Module, found: Iterable[Save]) -> Iterator[Save]:
    """Walk the open saves of model and optimizer that are whole but for that, as saves of what is seen in them."""
    for save in found if module.mentions(("sched",)) else ():
        function = module.tree.function(save.call)
        wanted = save.holds.open and {"model", "optimizer"} <= save.holds.kinds
        if function is None or not wanted or "scheduler" in save.holds.kinds:
            continue
        if _is_whole(module, save, function) and not kept_anywhere(module.project):
            yield replace(save, holds=Contents(save.holds.kinds))


def _is_whole(module: Module, save: Save, function: Function) -> bool:
    """Whether a state is a dictionary of its function into which nothing else may put more."""
    extras = _may_be_left_out(function)
    place = key(save.payload)
    made = [save.payload] if place is None or save.payload is None else assigned(module, save.payload)
    if not all(isinstance(value, ast.Dict) and _is_known(module, value, extras) for value in made):
        return False
    calls = (node for node in walk_scope(function) if isinstance(node, ast.Call) and node is not save.call)
    return bool(made) and not any(place and _may_add(module, call, place, extras) for call in calls)


def _may_be_left_out(function: Function) -> frozenset[str]:
    """Return the parameters that are None by themselves, and that of `**extra`."""
    rest = {function.args.kwarg.arg} if function.args.kwarg is not None else set()
    return frozenset({arg.arg for arg, default in parameters(function) if is_none_literal(default)} | rest)


def _is_known(module: Module, state: ast.Dict, extras: frozenset[str]) -> bool:
    """Whether all that a dictionary is made of can be followed, but for such parameters."""
    pairs = [(k, v) for k, v in zip(state.keys, state.values, strict=True) if k is not None or key(v) not in extras]
    return not contents(module, ast.Dict([k for k, _ in pairs], [v for _, v in pairs])).open


def _may_add(module: Module, call: ast.Call, place: str, extras: frozenset[str]) -> bool:
    """Whether a call may put something into a dictionary that is not in such a parameter."""
    if key(receiver(call)) == place:
        given = [*call.args, *(k.value for k in call.keywords)]
        return called(call) in ("update", "setdefault") and not all(key(value) in extras for value in given)
    handed = (*call.args, *(k.value for k in call.keywords))
    return place in map(key, handed) and changes_argument(module, call, place)
