"""Steps right behind the clear of the same optimizer, wherever the backward pass is: there is nothing to apply.

A plain step outside of loops may be meant: it makes the optimizer's state, or keeps a schedule from warning.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradient_events import clip_calls
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk

_LEAVES = frozenset({"unscale_", "print", "info", "debug", "parameters", "get_scale", "item", "synchronize"})
"""Calls that compute no gradients; clips are known apart."""


def stepped_right_after(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the step, the clear) where nothing between them can run a backward pass."""
    for clear in module.calls_of("zero_grad"):
        place, statement = key(receiver(clear)), module.tree.parents[clear]
        if place is None or not isinstance(statement, ast.Expr) or not is_optimizer(module, receiver(clear)):
            continue
        clipped = False
        for item in module.tree.behind(statement):
            step = next((c for c in _calls(item) if _steps(module, c, place)), None)
            if step is not None and _leads_only_to(module, item, step):
                looped = next(module.tree.loops(step), None) is not None
                if is_scaler(module, receiver(step)) or looped or clipped:
                    yield step, clear
                break
            if not all(_leaves_alone(module, c) for c in _calls(item)) or isinstance(item, ast.For | ast.While):
                break
            clipped = clipped or any(c in clip_calls(module) for c in _calls(item))


def _calls(item: ast.stmt) -> list[ast.Call]:
    return [n for n in (item, *walk(item)) if isinstance(n, ast.Call)]


def _steps(module: Module, call: ast.Call, place: str) -> bool:
    if called(call) != "step" or call.keywords:
        return False
    if is_scaler(module, receiver(call)):
        return len(call.args) == 1 and key(call.args[0]) == place
    return not call.args and key(receiver(call)) == place


def _leads_only_to(module: Module, item: ast.stmt, step: ast.Call) -> bool:
    """Whether nothing in a statement, which may be a branch, runs before its step."""
    before = (c for c in _calls(item) if c is not step and c.lineno <= step.lineno)
    return not isinstance(item, ast.For | ast.While) and all(_leaves_alone(module, c) for c in before)


def _leaves_alone(module: Module, call: ast.Call) -> bool:
    return called(call) in _LEAVES or call in clip_calls(module)
