"""Loops that compute gradients and clear them, with an optimizer made in the same function that never steps."""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver
from ampguard.auditing.rules.amp._steps import arms

_BACKWARD = ("backward", "managed backward")
_LOOKS = regex(r"\.grad\b|autograd|hook|register_|retain_grad")
"""What may use gradients without a step."""
_HARMLESS = ("zero_grad", "state_dict", "load_state_dict")


def cleared_and_never_stepped(module: Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Walk (the clear, the backward pass before it) of loops whose optimizer steps nowhere and is known to nobody."""
    if module.role == "test" or not module.calls.get("zero_grad"):
        return
    for root, ops in skeletons(module):
        if not isinstance(root, FUNCTIONS):
            continue
        found = [e for e in events(ops) if e.kind != "scheduler step"]
        clears = [e for e in found if e.kind == "zero" and e.module is module and not e.stack]
        for clear in clears:
            passed = _pass_before(module, clear, found)
            if passed is not None and _never_steps(module, clear, root):
                yield clear.node, passed.node
                break


def _pass_before(module: Module, clear: Event, found: list[Event]) -> Event | None:
    """Return the backward pass in front of a clear, in the same round of one loop."""
    loop = next(module.tree.loops(clear.node), None)
    before = [e for e in found if loop is not None and module.tree.inside(e.node, loop) and _line(e) < _line(clear)]
    last = max(before, key=_line, default=None)
    if last is None or last.kind not in _BACKWARD or last.stack or last.module is not module:
        return None
    return None if arms(module, last.node, clear.node) else last


def _never_steps(module: Module, clear: Event, function: Function) -> bool:
    """Whether an optimizer that a function makes is there only cleared, given to a schedule and asked for its state."""
    assert isinstance(clear.node, ast.Call)
    owner = receiver(clear.node)
    if not isinstance(owner, ast.Name) or _LOOKS.search(module.text_of(function)):
        return False
    made = module.names.values(owner.id, owner)
    inside = all(isinstance(v, ast.Call) and module.tree.function(v) is function for v in made)
    uses = [n for n in module.tree.named(owner.id, function) if isinstance(n.ctx, ast.Load)]
    return bool(made) and inside and all(_is_idle(module, use) for use in uses)


def _is_idle(module: Module, use: ast.Name) -> bool:
    """Whether one use of an optimizer steps nothing: a clear, its state, or what makes a schedule."""
    above = module.tree.parents[use]
    if isinstance(above, ast.Attribute):
        return above.attr in _HARMLESS or above.attr == "param_groups"
    if isinstance(above, ast.keyword):
        above = module.tree.parents[above]
    if not isinstance(above, ast.Call) or above.func is use:
        return False
    place = next((t for t in _targets(module, above) if key(t)), None)
    return "LR" in called(above) or "sched" in called(above).lower() or is_scheduler(module, place)


def _targets(module: Module, call: ast.Call) -> list[ast.expr]:
    statement = module.tree.statement(call)
    return statement.targets if isinstance(statement, ast.Assign) else []


def _line(event: Event) -> int:
    return getattr(event.node, "lineno", 0)
