"""Schedules and steps that do not go together: what is told of each of the ways in which they part."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._schedules.counted_by_interval import schedules_counted_by_interval
from ampguard.auditing.rules.amp._schedules.moved_apart_from_step import schedules_apart_from_steps
from ampguard.auditing.rules.amp._schedules.moved_in_one_arm import schedules_moved_in_one_arm
from ampguard.auditing.rules.amp._schedules.moved_twice import schedules_moved_twice
from ampguard.auditing.rules.amp._schedules.moved_under_misspelt import schedules_under_misspelt_kinds
from ampguard.auditing.rules.amp._schedules.moved_without_step import schedules_moved_without_step
from ampguard.auditing.rules.amp._schedules.never_moved import schedules_never_moved
from ampguard.auditing.rules.amp._schedules.other_units import schedules_in_other_units
from ampguard.auditing.rules.amp._schedules.replayed_in_epochs import schedules_replayed_in_epochs


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
    yield from _counted_wrongly(module)


def _counted_wrongly(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the moves that count something else than the optimizer's steps, or wait for what never comes."""
    for move, batch in schedules_replayed_in_epochs(module):
        at_batches = f"in training it moves at each batch (line {batch.lineno})"
        yield move, f"{module.segment(move)} runs once for each past epoch, but {at_batches}"
    for move, step, often in schedules_apart_from_steps(module):
        beside = f"{module.segment(step)} (line {step.lineno})"
        yield move, f"{module.segment(move)} counts micro-batches: {beside} runs once in `{often}` of them"
    for move, asked, meant in schedules_under_misspelt_kinds(module):
        yield move, f"{module.segment(move)} waits for `{asked}`, which nothing is called: {meant} is what torch has"
    for found in schedules_counted_by_interval(module):
        length = f"`{module.segment(found.length)}` is meant for {found.unit}"
        yield found.made, f"{length}, but the interval is `{found.interval}`"
