"""Schedules that Lightning moves, whose length counts something else than the interval that they are returned with.

`{"scheduler": OneCycleLR(optimizer, total_steps=epochs * len(loader)), "interval": "epoch"}` moves once an epoch. Where
the interval is a setting, a length that is always a number of steps is wrong for one of its two values.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import argument, called, walk
from ampguard.auditing.rules.amp._schedules.known import is_schedule_made
from ampguard.auditing.rules.amp._schedules.other_units import length_of, unit_of

_LENGTHS = regex(r"(num_|max_|total_|n_|warm_?up_|first_cycle_|training_)*(epochs?|steps|iters|iterations)|T_max")
_STEPS = regex(r"steps_per|per_epoch|num_training_steps|num_train_steps|len\(|num_batches|(steps|iters|batches)_in")
_EPOCHS = regex(r"epoch", re.IGNORECASE)
_SCHEDULE = regex(r"\w*(LR|[Ss]chedule\w*|Annealing\w*)")
_UNITS = {"epoch": "epochs", "step": "batches"}


class Counted(NamedTuple):
    """A schedule as it is made, its length, what that counts, and the interval that it moves at."""

    made: ast.Call
    length: ast.expr
    unit: str
    interval: str


def schedules_counted_by_interval(module: Module) -> Iterator[Counted]:
    """Walk the schedules that are returned with an interval that their length does not count."""
    if not module.mentions(("interval",)) or module.role == "test":
        return
    for state in module.tree.all(ast.Dict):
        given = {k.value: v for k, v in zip(state.keys, state.values, strict=True) if isinstance(k, ast.Constant)}
        schedule, interval = given.get("scheduler"), given.get("interval")
        made = _made(module, schedule) if schedule is not None and interval is not None else None
        if made is None or interval is None:
            continue
        if isinstance(interval, ast.Constant):
            found = _of_other_unit(module, made, str(interval.value))
        else:
            found = _of_steps_alone(module, made, interval)
        if found is not None:
            yield found


def _made(module: Module, node: ast.expr) -> ast.Call | None:
    """Return the one call that makes a schedule."""
    values = [node] if isinstance(node, ast.Call) else assigned(module, node)
    made = values[0] if len(values) == 1 else None
    return made if isinstance(made, ast.Call) and _SCHEDULE.fullmatch(called(made)) else None


def _of_other_unit(module: Module, made: ast.Call, interval: str) -> Counted | None:
    """Return the length of a schedule of torch or transformers that counts the other one of epochs and steps."""
    length = length_of(made) if is_schedule_made(module, made) and interval in _UNITS else None
    unit = unit_of(module, made, length) if length is not None else None
    if length is None or unit is None or unit == _UNITS[interval]:
        return None
    return Counted(made, length, unit, interval)


def _of_steps_alone(module: Module, made: ast.Call, interval: ast.expr) -> Counted | None:
    """Return the length of a schedule that is epochs times their steps, where only a setting tells the interval."""
    text = ast.unparse(interval)
    function = module.tree.function(made)
    if function is None or module.text_of(function).count(text) > 1 or argument(made, None, "interval") is not None:
        return None
    for keyword in made.keywords:
        if keyword.arg is None or not _LENGTHS.fullmatch(keyword.arg):
            continue
        for value in (keyword.value, *assigned(module, keyword.value)):
            if any(map(_is_epochs_by_steps, (value, *walk(value)))) and not _chooses(value):
                return Counted(made, value, "batches", text)
    return None


def _is_epochs_by_steps(node: ast.AST) -> bool:
    """Whether something is a number of epochs times the steps of one."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return False
    sides = [ast.unparse(node.left), ast.unparse(node.right)]
    return any(_STEPS.search(side) for side in sides) and any(
        _EPOCHS.search(side) and not _STEPS.search(side) for side in sides
    )


def _chooses(node: ast.expr) -> bool:
    return any(isinstance(n, ast.IfExp | ast.BoolOp) for n in (node, *walk(node)))
