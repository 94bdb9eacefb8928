"""Schedules whose length counts epochs and that move at every batch, or counts batches and that move once an epoch.

`CosineAnnealingLR(optimizer, T_max=epochs)` in the loop over batches comes to its end after as many batches;
`OneCycleLR(optimizer, total_steps=epochs * len(loader))` behind that loop never leaves its warm-up.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, argument, called, receiver, walk
from ampguard.auditing.rules.amp._schedules.known import (
    goes_over_batches,
    goes_over_epochs,
    made_from,
    moves,
    optimizer_steps,
    own_tests,
)
from ampguard.auditing.rules.amp._schedules.moved_before_training import trainings
from ampguard.auditing.rules.amp._steps import callers

_LENGTHS = {
    "CosineAnnealingLR": (1, "T_max"),
    "OneCycleLR": (2, "total_steps"),
    "LinearLR": (3, "total_iters"),
    "PolynomialLR": (1, "total_iters"),
    "StepLR": (1, "step_size"),
    "MultiStepLR": (1, "milestones"),
    "ExponentialLR": (1, "gamma"),
    "get_linear_schedule_with_warmup": (2, "num_training_steps"),
    "get_cosine_schedule_with_warmup": (2, "num_training_steps"),
    "get_polynomial_decay_schedule_with_warmup": (2, "num_training_steps"),
}
_OF_BATCHES = regex(
    r"\blen\b|batch|loader|(steps?|iters?|iterations?)_?per|per_?epoch|steps\b|iters\b|iterations\b|updates\b|step\b|iter\b"
)
_OF_EPOCHS = regex(r"epochs?(\b|_)|\b[nE]p\b", re.IGNORECASE)
_FEW = 10
"""Epochs between two falls of the learning rate that nobody means as batches. Chosen: a step size of 1 to 10."""
_SLOW = 0.99
"""A factor above which a fall at each batch may be meant."""
_DEPTH = 2


def schedules_in_other_units(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk (the move, the length of its schedule as it is written, what that counts: "epochs" or "batches")."""
    if not module.mentions(("lr_scheduler", "_schedule")):
        return
    for move in moves(module):
        loop = next(module.tree.loops(move), None)
        often = _how_often(module, move, loop) if loop is not None else _behind_a_loop(module, move)
        for where, made in made_from(module, receiver(move)) if often is not None else ():
            length = length_of(made)
            unit = unit_of(where, made, length) if length is not None else None
            if length is not None and unit is not None and unit != often:
                yield move, where.segment(length), unit
                break


def _how_often(module: Module, move: ast.Call, loop: Loop) -> str | None:
    """Return what the passes of the loop around a move are, where each of them moves it."""
    if own_tests(module, move, loop):
        return None
    steps = [call for call, _ in optimizer_steps(module) if module.tree.inside(call, loop)]
    inner = {next(module.tree.loops(step), None) for step in steps}
    if goes_over_batches(loop) and inner == {loop} and not goes_over_epochs(loop):
        return "batches"
    trains = any(next(module.tree.loops(call), None) is loop for call in trainings(module))
    if goes_over_epochs(loop) and ((inner and loop not in inner) or (not inner and trains)):
        return "epochs"
    return None


def _behind_a_loop(module: Module, move: ast.Call) -> str | None:
    """Return "epochs" for a move behind the loop that trains, in a function that is one epoch or is run for each."""
    function = module.tree.function(move)
    if function is None or own_tests(module, move, function):
        return None
    steps = [call for call, _ in optimizer_steps(module) if module.tree.function(call) is function]
    looped = bool(steps) and all(next(module.tree.loops(s), None) is not None and s.lineno < move.lineno for s in steps)
    around = (next(module.tree.loops(call), None) for call in callers(module, function)) if looped else ()
    known = "epoch" in function.name and looped
    return "epochs" if known or any(loop is not None and goes_over_epochs(loop) for loop in around) else None


def length_of(made: ast.Call) -> ast.expr | None:
    """Return what a schedule of torch or transformers is given as its length, or None."""
    place = _LENGTHS.get(called(made))
    given = argument(made, *place) if place is not None else None
    return argument(made, None, "steps_per_epoch") if given is None and called(made) == "OneCycleLR" else given


def unit_of(module: Module, made: ast.Call, length: ast.expr) -> str | None:
    """Return what the length of a schedule counts: "epochs", "batches", or None where its words do not tell."""
    if called(made) in ("StepLR", "MultiStepLR", "ExponentialLR"):
        return "epochs" if _is_short(made, length) else None
    if argument(made, None, "steps_per_epoch") is length:
        return "batches"
    words = " ".join(_words(module, length))
    if _OF_BATCHES.search(words):
        return "batches"
    return "epochs" if _OF_EPOCHS.search(words) else None


def _is_short(made: ast.Call, length: ast.expr) -> bool:
    """Whether a schedule of steps falls so soon and so far that it can only count epochs."""
    falls = argument(made, 1 if called(made) == "ExponentialLR" else 2, "gamma")
    factors = [n.value for n in walk(falls) if isinstance(n, ast.Constant)] if falls is not None else []
    numbers = [factor for factor in factors if isinstance(factor, float)]
    if length is falls:
        return bool(numbers) and max(numbers) < _SLOW
    short = isinstance(length, ast.Constant) and isinstance(length.value, int) and length.value <= _FEW
    return short and not any(number >= _SLOW for number in numbers)


def _words(module: Module, node: ast.expr, *, depth: int = 0) -> Iterator[str]:
    """Walk the names in an expression, and in what was assigned to them."""
    for inner in walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value
        if isinstance(inner, ast.Name | ast.Attribute) and depth < _DEPTH:
            for value in assigned(module, inner):
                yield from _words(module, value, depth=depth + 1)
