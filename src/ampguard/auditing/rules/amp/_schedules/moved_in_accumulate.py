"""Schedules that move in `with accelerator.accumulate(...)` and were never prepared.

There a prepared optimizer steps once in k, and so does a prepared schedule; one that is not moves at every micro-batch.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.prepared import leaves_schedule_out
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver
from ampguard.auditing.rules.amp._steps import tests_above

_ASKS = ("sync_gradients", "optimizer_step_was_skipped", "%", "accum")


def schedules_in_accumulate(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk the moves, each with the call that prepares its optimizer and leaves the schedule out."""
    if "accumulate(" not in module.text or leaves_schedule_out(module) is None:
        return
    prepares = leaves_schedule_out(module) if not _is_longer(module) else None
    for call in module.calls_of("step"):
        owner = receiver(call)
        if prepares is None or not is_scheduler(module, owner) or is_optimizer(module, owner):
            continue
        tests = " ".join(ast.unparse(test) for test, _ in tests_above(module, call))
        if _accumulates_around(module, call) and not any(word in tests for word in _ASKS):
            yield call, prepares


def _is_longer(module: Module) -> bool:
    """Whether a schedule is made longer by the number of micro-batches, so that it moves as it should."""
    made = (c for name, calls in module.calls.items() if "sched" in name.lower() for c in calls)
    given = (ast.unparse(v) for c in made for v in (*c.args, *(k.value for k in c.keywords)))
    return any("accum" in text and "*" in text for text in given)


def _accumulates_around(module: Module, call: ast.Call) -> bool:
    """Whether a call stands in `with accelerator.accumulate(...)`, or behind it in the body of its loop."""
    for at in module.tree.above(call):
        if isinstance(at, FUNCTIONS):
            return False
        if _opens(at):
            return True
        if isinstance(at, ast.For | ast.While):
            return any(_opens(statement) and statement.lineno < call.lineno for statement in at.body)
    return False


def _opens(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any(_is_accumulate(item.context_expr) for item in node.items)


def _is_accumulate(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and called(node) == "accumulate" and "ccelerator" in (key(receiver(node)) or "")
