"""Gradients that `torch.autograd.grad` takes of a scaled loss, where something measures them before they are divided.

`unscale_` knows the gradients of an optimizer's parameters alone: what `autograd.grad` returns stays multiplied by
the loss scale until somebody divides. Followed through names, through a function of the project that takes the
gradients of its argument, and into one that is given the scaled loss.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, argument
from ampguard.auditing.rules.amp._order.measured_gradients import GRAD, Measured, is_scaled, measured, returns_gradients

_WORDS = ("autograd.grad", "autograd import")
_TAKES = regex(r"grad|penalt|weight|norm|regular|\br1\b|lambda|lagrang", re.IGNORECASE)
"""Names of functions that may take the gradients of what they are given."""


def gradients_of_scaled_losses(module: Module) -> Iterator[Measured]:
    """Walk the first measure of each function that takes gradients of a scaled loss and divides by no scale."""
    if not module.mentions((".scale(",)):
        return
    told: set[ast.AST] = set()
    for call, loss in _takings(module):
        function = module.tree.function(call)
        if function is None or function in told or not is_scaled(module, loss):
            continue
        found = measured(module, function, call)
        if found is not None:
            told.add(function)
            yield found
    yield from _given(module)


def _takings(module: Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Walk the calls that return gradients, torch's or of a function that hands them on, with the loss they are of."""
    for call in module.calls_of("grad"):
        loss = argument(call, 0, "outputs")
        if loss is not None and module.names.stands_for(call.func, GRAD):
            yield call, loss
    for call, place, taken, loss in _through(module):
        if returns_gradients(*place, taken):
            yield call, loss


def _given(module: Module) -> Iterator[Measured]:
    """Walk the calls that give a scaled loss to a function that measures its gradients; in this file, the measure."""
    for call, place, taken, loss in _through(module):
        found = measured(*place, taken) if is_scaled(module, loss) else None
        if found is not None:
            yield found if place[0] is module else Measured(call, call, found.quotient)


def _through(module: Module) -> Iterator[tuple[ast.Call, Place, ast.Call, ast.expr]]:
    """Walk (the call, the function it runs, the gradients taken there of an argument, that argument)."""
    for name, calls in module.calls.items():
        for call in calls if name != "grad" and _TAKES.search(name) else ():
            place = target(module, call, _WORDS)
            for taken, parameter in _of_parameters(*place) if place is not None else ():
                loss = argument_for(call, place[1], parameter) if place is not None else None
                if loss is not None and place is not None:
                    yield call, place, taken, loss


def _of_parameters(where: Module, function: Function) -> Iterator[tuple[ast.Call, str]]:
    """Walk the gradients that a function takes of one of its parameters, with its name."""
    names = {arg.arg for arg, _ in parameters(function)}
    for taken in where.calls_of("grad") if where.mentions(_WORDS) else ():
        loss = argument(taken, 0, "outputs")
        own = where.tree.function(taken) is function and isinstance(loss, ast.Name) and loss.id in names
        if own and where.names.stands_for(taken.func, GRAD):
            yield taken, loss.id  # type: ignore[union-attr]
