"""Classes that divide by k in one way of stepping alone: the other way applies the sum of k micro-batches.

As where a way to step of its own (half precision over several processes) divides the gradients, and the loss is divided
nowhere: in every other way the gradients are k times too large.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, key, receiver, walk
from ampguard.auditing.rules.amp._accumulation.accumulates_by_name import EVERY_KTH
from ampguard.auditing.rules.amp._accumulation.loops import ACCUMULATES
from ampguard.auditing.rules.amp._steps import backward_calls


class OneWay(NamedTuple):
    """A backward pass whose gradients one way of stepping divides."""

    backward: ast.Call
    number: ast.expr
    divides: Function
    other: ast.Call
    """The call that steps without a division."""


def divided_one_way(module: Module) -> Iterator[OneWay]:
    """Walk the first backward pass of each such class."""
    if module.role == "test" or not module.mentions(("accum", "micro")):
        return
    told: set[ast.ClassDef] = set()
    for backward in backward_calls(module):
        cls, function = module.tree.class_of(backward), module.tree.function(backward)
        if cls is None or cls in told or not EVERY_KTH.search(module.text):
            continue
        told.add(cls)
        own = {f.name: f for f in cls.body if isinstance(f, FUNCTIONS)}
        divisions = [(f, count) for f in own.values() for count in _divisors(f)]
        dividing = {f.name for f, _ in divisions}
        if len(dividing) != 1 or function in {f for f, _ in divisions}:
            continue
        other = next(_other_ways(module, cls, own, dividing), None)
        if other is not None:
            yield OneWay(backward, divisions[0][1], divisions[0][0], other)


def _divisors(function: Function) -> Iterator[ast.expr]:
    """Walk what a function divides by that is named as a number of micro-batches."""
    for node in walk(function):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            below = walk(node.right if isinstance(node, ast.BinOp) else node.value)
            named = (n for n in below if isinstance(n, ast.Name | ast.Attribute))
            yield from (n for n in named if ACCUMULATES.search((key(n) or "").rpartition(".")[2]))


def _other_ways(module: Module, cls: ast.ClassDef, own: dict[str, Function], dividing: set[str]) -> Iterator[ast.Call]:
    """Walk the calls of methods that step, in the arms beside one that calls the method which divides."""
    for branch in module.tree.all(ast.If):
        if module.tree.class_of(branch) is not cls:
            continue
        calls = [list(_own_calls(arm, own)) for arm in _arms(branch)]
        if not any(name in dividing for arm in calls for name, _ in arm):
            continue
        for arm in calls:
            if not any(name in dividing for name, _ in arm):
                yield from (call for name, call in arm if _steps(module, own[name]))


def _arms(branch: ast.If) -> Iterator[list[ast.stmt]]:
    """Walk the arms of an `if` with its `elif`s and its `else`."""
    yield branch.body
    last = branch.orelse
    if len(last) == 1 and isinstance(last[0], ast.If):
        yield from _arms(last[0])
    elif last:
        yield last


def _own_calls(arm: list[ast.stmt], own: dict[str, Function]) -> Iterator[tuple[str, ast.Call]]:
    calls = (n for statement in arm for n in walk(statement) if isinstance(n, ast.Call))
    for call in calls:
        place = key(call.func) or ""
        if place.startswith("self.") and place.removeprefix("self.") in own:
            yield place.removeprefix("self."), call


def _steps(module: Module, function: Function) -> bool:
    steps = (c for c in module.calls_of("step") if module.tree.function(c) is function)
    return any(is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c)) for c in steps)
