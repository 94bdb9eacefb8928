"""Clears at the head of `with accelerator.accumulate(...)`, before the backward pass of the same micro-batch.

There a prepared optimizer's `zero_grad()` acts on the micro-batch that synchronises, as its `step()` does: at the head
of the block it drops what the micro-batches before have gathered. Behind the step it is right, and so it is in front
of the block, where the state of the micro-batch before still holds.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_optimizer
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk
from ampguard.auditing.rules.amp._steps import callers, tests_above

_K = ("gradient_accumulation_steps", "GradientAccumulationPlugin", "accumulation_steps", "grad_accum")


def cleared_at_the_head(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk the clears of optimizers, each with the backward pass behind it, or the call that leads to one."""
    if not module.mentions((".accumulate(",)) or "ccelerat" not in module.text:
        return
    for clear in module.calls_of("zero_grad"):
        owner = receiver(clear)
        around = within_accumulate(module, clear) if is_optimizer(module, owner) else None
        if around is None or any("sync_gradients" not in ast.unparse(t) for t, _ in tests_above(module, clear)):
            continue
        if any(key(receiver(c)) == key(owner) and c.lineno < clear.lineno for c in _within(module, around, "step")):
            continue
        backward = _backward_behind(module, clear, around)
        if backward is not None:
            yield clear, backward


def says_how_many(module: Module) -> bool:
    """Whether a file tells that more than one micro-batch may be gathered."""
    return module.mentions(_K)


def within_accumulate(module: Module, call: ast.Call) -> ast.AST | None:
    """Return the block that accumulates around a call, or its function where every call of that stands in one."""
    block = _block(module, call)
    function = module.tree.function(call)
    if block is not None or function is None:
        return block
    calls = callers(module, function)
    return function if calls and all(_block(module, c) is not None for c in calls) else None


def _block(module: Module, node: ast.AST) -> ast.AST | None:
    for at in module.tree.above(node):
        if isinstance(at, FUNCTIONS):
            return None
        if isinstance(at, ast.With) and any(_accumulates(item.context_expr) for item in at.items):
            return at
    return None


def _accumulates(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and called(node) == "accumulate" and "ccelerat" in ast.unparse(node.func)


def _backward_behind(module: Module, clear: ast.Call, around: ast.AST) -> ast.Call | None:
    passes = [c for c in _within(module, around, "backward") if c.lineno > clear.lineno]
    steps = [c for c in _within(module, around, "step") if key(receiver(c)) == key(receiver(clear))]
    behind = [c for c in passes if any(s.lineno > c.lineno for s in steps)]
    if behind or not steps:
        return behind[0] if behind else None
    for call in (n for n in walk(around) if isinstance(n, ast.Call)):
        if clear.lineno < call.lineno < steps[0].lineno:
            place = target(module, call, (".backward(",))
            if place is not None and ".backward(" in ast.unparse(place[1]):
                return call
    return None


def _within(module: Module, around: ast.AST, name: str) -> list[ast.Call]:
    found = (c for c in module.calls.get(name, ()) if module.tree.inside(c, around))
    return sorted(found, key=lambda c: c.lineno)
