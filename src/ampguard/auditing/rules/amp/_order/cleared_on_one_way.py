"""Steps behind an `if` of which one arm clears and the other does not, though both compute the loss that is stepped."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver, walk
from ampguard.auditing.rules.amp._order.micro_steps import runs_each_time
from ampguard.auditing.rules.amp._order.seldom import counts, training_loop
from ampguard.auditing.rules.amp._steps import RUNNERS, loss_of

_STEPS = ("step", "scaler step")
_CLEARS = ("zero", "clear")
_MAY_CLEAR = regex(r"zero|reset|clear|update|optimi|closure|train", re.IGNORECASE)


def steps_on_both_ways(module: Module) -> Iterator[tuple[Event, Event]]:
    """Walk (the step, the clear) of loops whose only clear stands in one of two arms that lead to the same step."""
    in_arms = any(_stands_in_an_arm(module, call) for call in module.calls.get("zero_grad", ()))
    if not in_arms or module.mentions(RUNNERS) or module.role == "test":
        return
    for _, ops in skeletons(module):
        found = list(events(ops))
        clears = [e for e in found if e.kind in _CLEARS]
        own = [e for e in found if e.module is module and not e.stack]
        passes = [e for e in own if e.kind == "backward"]
        if not passes or len({e.node for e in clears}) != 1 or clears[0] not in own:
            continue
        for step in (e for e in own if e.kind in _STEPS):
            loop = training_loop(module, step.node, [e.node for e in passes])
            if loop is not None and _one_arm_clears(module, loop, step, clears[0], passes):
                yield step, clears[0]
                break


def _stands_in_an_arm(module: Module, call: ast.Call) -> bool:
    return any(isinstance(at, ast.If) and at.orelse for at in module.tree.above(call))


def _one_arm_clears(module: Module, loop: Loop, step: Event, clear: Event, passes: list[Event]) -> bool:
    branch = next((s for s in loop.body if isinstance(s, ast.If) and module.tree.inside(clear.node, s)), None)
    if branch is None or not branch.orelse or counts(module, branch.test, loop):
        return False
    behind = [e for e in passes if _line(e) > (branch.end_lineno or 0) and runs_each_time(module, e.node, loop)]
    if not behind or _line(step) < _line(behind[0]) or not runs_each_time(module, step.node, loop):
        return False
    loss = key(_loss(module, behind[0]))
    cleared = [any(module.tree.inside(clear.node, s) for s in arm) for arm in (branch.body, branch.orelse)]
    other = branch.orelse if cleared[0] else branch.body
    gives = [any(loss in _stored(s) for s in arm) for arm in (branch.body, branch.orelse)]
    return loss is not None and all(gives) and not any(_may_leave(s) for s in other)


def _loss(module: Module, backward: Event) -> ast.expr:
    assert isinstance(backward.node, ast.Call)
    return backward.node.args[0] if receiver(backward.node) is None else loss_of(module, backward.node)[0]


def _stored(statement: ast.stmt) -> set[str | None]:
    return {key(n) for n in walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _may_leave(statement: ast.stmt) -> bool:
    """Whether a statement may clear by what it calls, or leave the pass."""
    if any(isinstance(n, ast.Continue | ast.Return | ast.Break | ast.Raise) for n in walk(statement)):
        return True
    return any(isinstance(n, ast.Call) and _MAY_CLEAR.search(called(n)) for n in walk(statement))


def _line(event: Event) -> int:
    return getattr(event.node, "lineno", 0)
