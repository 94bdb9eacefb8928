"""Calls of a function that would save the scaler's state, which give it the optimizer and leave the scaler out.

    def save_checkpoint(model, path, optimizer=None, loss_scaler=None): ...

    save_checkpoint(self.model, path, optimizer=self.optimizer)

That the file loads the scaler's state, or that the function could save it, does not put it into this checkpoint.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import SAVES, Scaler, argument_for, scaler_at, scalers
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, receiver, walk
from ampguard.auditing.reading.unused import unused_parameters
from ampguard.auditing.rules.checkpoints._registered import may_bring_scaler

_LOADS = regex(r"load|resume|restore", re.IGNORECASE)
_FLAGS = ("use_", "no_", "with_", "save_", "has_", "load_")


class NotHanded(NamedTuple):
    """A call that gives no scaler to a function that would save one; `sure` where no call of the file gives it."""

    call: ast.Call
    scaler: Scaler
    sure: bool


def not_handed(module: Module) -> Iterator[NotHanded]:
    """Walk the first such call of each function of the file."""
    told = set()
    for name, calls in module.calls.items() if scalers(module) else ():
        for call in calls if SAVES.search(name) and not _LOADS.search(name) and name != "state_dict" else ():
            function = module.tree.function(call)
            place = target(module, call, ("caler",)) if function not in told else None
            if place is None or not _leaves_out(module, call, place[1]) or _reads_state(module, function):
                continue
            scaler = scaler_at(module, call)
            if scaler is not None:
                told.add(function)
                given = (c for c in calls if c is not call)
                yield NotHanded(call, scaler, not any(may_bring_scaler(module, c) for c in given))


def _leaves_out(module: Module, call: ast.Call, function: Function) -> bool:
    """Whether a function does something with a scaler that it may be given, and gets an optimizer without one."""
    names = [arg.arg for arg, _ in parameters(function)]
    wanted = [name for name in names if "scaler" in name.lower() and not name.startswith(_FLAGS)]
    given = [*call.args, *(k.value for k in call.keywords)]
    if not wanted or not any(is_optimizer(module, part) for g in given for part in _objects(g)):
        return False
    if may_bring_scaler(module, call) or set(wanted) & unused_parameters(function):
        return False
    return all(_is_nothing(argument_for(call, function, name)) for name in wanted)


def _is_nothing(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _objects(node: ast.expr) -> Iterator[ast.expr]:
    """Walk what an argument hands over: itself, the parts of a written-out list, and those whose state it reads."""
    yield node
    for part in walk(node) if isinstance(node, ast.Call | ast.Dict | ast.List | ast.Tuple) else ():
        if isinstance(part, ast.Name | ast.Attribute):
            yield part


def _reads_state(module: Module, function: Function | None) -> bool:
    """Whether the function around a call puts a scaler's state away by itself."""
    return any(
        is_scaler(module, receiver(call))
        for call in module.calls_of("state_dict")
        if module.tree.function(call) is function
    )
