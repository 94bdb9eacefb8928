"""Schedules and steps that do not go together: what is told of each of the ways in which they part."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._schedules.moved_in_one_arm import schedules_moved_in_one_arm
from ampguard.auditing.rules.amp._schedules.moved_twice import schedules_moved_twice
from ampguard.auditing.rules.amp._schedules.moved_without_step import schedules_moved_without_step
from ampguard.auditing.rules.amp._schedules.never_moved import schedules_never_moved
from ampguard.auditing.rules.amp._schedules.other_units import schedules_in_other_units


def out_of_step(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls that move a schedule too often or too seldom, or make one in vain, with what is to be told."""
    if not module.mentions(("sched",)):
        return
    for move, line in schedules_moved_twice(module):
        yield move, f"{module.segment(move)} runs in a loop whose passes have moved the schedule already (line {line})"
    for move, step in schedules_moved_in_one_arm(module):
        beside = f"{module.segment(step)} (line {step.lineno})"
        yield move, f"{module.segment(move)} stands in one arm only: {beside} steps the same optimizer without it"
    for move, step in schedules_moved_without_step(module):
        beside = f"{module.segment(step)} (line {step.lineno})"
        yield move, f"{module.segment(move)} runs at every pass, {beside} only under a test"
    for move, length, unit in schedules_in_other_units(module):
        passes = "batch" if unit == "epochs" else "epoch"
        yield move, f"{module.segment(move)} runs once per {passes}, but `{length}` is meant for {unit}"
    for made, name in schedules_never_moved(module):
        yield made, f"`{name}` is made here and never moves: the learning rate stays as it is"
