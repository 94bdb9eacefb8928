"""Schedules beside a scaler's step that the events of gradients do not tie to it: by name, and through loops of parts.

`self.optimization.step_scheduler()` moves a schedule although its body is not seen; a `scheduler.step()` after an inner
loop over the objectives of one step stands beside the steps in that loop.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scaler, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Loop, receiver

_MOVES = regex(
    r"_*((step|update|advance|adjust|run)_?(the_)?(lr_?|learning_?rate_?)?sched\w*|(lr_?)?sched\w*_(step|update)|lr_step)",
    re.IGNORECASE,
)
_EPOCHS = regex(r"(?<!per_)(?<!per )epoch", re.IGNORECASE)
_BATCHES = regex(r"load|batch|data|tqdm|enumerate|iter\b|iterator|sampler|steps?\b", re.IGNORECASE)
_ASKS = regex(r"get_scale|found_inf|skip|overflow|_scale\b|applied|was_stepped|is_optimizer_step|step_taken")

Move = tuple[ast.Call, ast.Call]
"""A call that moves a schedule, and the scaler's step that may have been skipped before it."""


def named_schedules(module: Module) -> Iterator[Move]:
    """Walk the moves of a schedule in the loop of a scaler's step, where the function never asks what was skipped."""
    steps = [c for c in module.calls_of("step") if is_scaler(module, receiver(c)) and (c.args or c.keywords)]
    for function in {module.tree.function(step) for step in steps}:
        if function is None or _ASKS.search(_text(module, function)):
            continue
        for call in _moves(module, function):
            beside = (s for s in steps if module.tree.function(s) is function and _one_step(module, s, call))
            step = next(beside, None)
            if step is not None:
                yield call, step


def asks_for_skips(module: Module, node: ast.AST) -> bool:
    """Whether the function around a node asks what the scaler skipped."""
    function = module.tree.function(node)
    return function is not None and bool(_ASKS.search(_text(module, function)))


def _moves(module: Module, function: Function) -> Iterator[ast.Call]:
    for name, calls in module.calls.items():
        by_name = bool(_MOVES.fullmatch(name))
        for call in calls if by_name or name == "step" else ():
            if module.tree.function(call) is not function:
                continue
            if by_name or (is_scheduler(module, receiver(call)) and not call.args and not call.keywords):
                yield call


def _one_step(module: Module, step: ast.Call, move: ast.Call) -> bool:
    """Whether the schedule moves once for each pass through the loop of the step, after it or around it."""
    around, inner = list(module.tree.loops(move)), list(module.tree.loops(step))
    if not around or around[0] not in inner or step.lineno > move.lineno:
        return not around and not inner and step.lineno < move.lineno and not _arms(module, step, move)
    between = inner[: inner.index(around[0])]
    if _goes_over(around[0], _EPOCHS) or _arms(module, step, move):
        return False
    return not any(isinstance(loop, ast.While) or _goes_over(loop, _BATCHES, _EPOCHS) for loop in between)


def _goes_over(loop: Loop, *what: re.Pattern[str]) -> bool:
    """Whether the words of a loop's head name one of these."""
    parts = [loop.test] if isinstance(loop, ast.While) else [loop.iter, loop.target]
    head = " ".join(ast.unparse(part) for part in parts)
    return any(pattern.search(head) for pattern in what)


def _arms(module: Module, one: ast.AST, other: ast.AST) -> bool:
    """Whether the two stand in the two arms of one `if`."""
    for above in module.tree.above(other):
        if isinstance(above, ast.If) and module.tree.inside(one, above):
            first = any(module.tree.inside(one, s) for s in above.body)
            return first is not any(module.tree.inside(other, s) for s in above.body)
    return False


def _text(module: Module, function: Function) -> str:
    return module.text_of(function)
