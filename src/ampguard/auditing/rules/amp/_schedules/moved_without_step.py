"""Schedules that move at each pass of a loop in which their own optimizer steps only under a test."""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._schedules.known import made_from, moves, optimizer_steps, own_tests
from ampguard.auditing.rules.amp._steps import arms

_COUNTS = regex(r"%|accum|sync|amp|scaler|fp16|half|fused|closure|deepspeed|isnan|isinf|finite|nan|skip|grad")
"""Tests that other premises look at, or that another way to step stands beside."""

_KIND = regex(r"(?<![a-zA-Z])(lr|self)(?![a-z])|sched(uler|ule)?s?|optim(izer)?s?|opt(?![a-z])|\W|_")


def schedules_moved_without_step(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the move, the step of its optimizer), where the loop holds another optimizer's steps as well."""
    steps = optimizer_steps(module)
    if len({place for _, place in steps}) == 1:
        return
    for move in moves(module):
        loop = next(module.tree.loops(move), None)
        own = _own_optimizer(module, move, {place for _, place in steps}) if loop is not None else None
        here = [s for s, place in steps if place == own and next(module.tree.loops(s), None) is loop]
        if loop is None or not here or own_tests(module, move, loop):
            continue
        if any(arms(module, one, other) for one in here for other in here):
            continue
        tests = [own_tests(module, step, loop) for step in here]
        if all(found and not any(_COUNTS.search(ast.unparse(t)) for t in found) for found in tests):
            yield move, here[0]


def _own_optimizer(module: Module, move: ast.Call, places: set[str]) -> str | None:
    """Return the key of the optimizer that a schedule was made for, or that alone shares its name with it."""
    owner = receiver(move)
    made = {key(call.args[0]) for where, call in made_from(module, owner) if call.args and where is module} & places
    if made:
        return next(iter(made)) if len(made) == 1 else None
    word = _KIND.sub("", key(owner) or "")
    named = [place for place in places if word and _KIND.sub("", place) == word]
    return named[0] if len(named) == 1 else None
