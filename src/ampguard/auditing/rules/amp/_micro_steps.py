"""Accumulations that clear at every micro-step: the step every k-th time applies the last micro-batch alone."""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.reading.module import Module


def cleared_micro_steps(module: Module) -> Iterator[tuple[Event, Event]]:
    """Yield (the clear, the step) of each accumulation that clears too often."""
    for _, ops in skeletons(module):
        own = [event for event in events(ops) if event.module is module and not event.stack]
        steps = [e for e in own if e.kind in ("step", "scaler step") and _every_kth(module, e.node) is not None]
        for step in steps:
            clear = next((e for e in own if e.kind == "zero" and _each_time(module, e, step)), None)
            backward = any(e.kind == "backward" and _beside(module, e.node, step.node) for e in own)
            if clear is not None and backward:
                yield clear, step
                break


def where_line(event: Event) -> int:
    """Return the line of an event."""
    return getattr(event.node, "lineno", 1)


def _every_kth(module: Module, node: ast.AST) -> ast.If | None:
    """Return the `if ... % k == 0` around a node inside its loop or function."""
    loop = next(module.tree.loops(node), None)
    for above in module.tree.above(node):
        if above is loop or isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        if isinstance(above, ast.If) and any(
            isinstance(at, ast.BinOp) and isinstance(at.op, ast.Mod) for at in ast.walk(above.test)
        ):
            return above
    return None


def _each_time(module: Module, clear: Event, step: Event) -> bool:
    """Whether a clear of the stepped optimizer (or of a model) stands under no test, in the loop of the step."""
    data = clear.data
    if data.get("is_optimizer") and data.get("optimizer") != step.data.get("optimizer"):
        return False
    return _beside(module, clear.node, step.node)


def _beside(module: Module, node: ast.AST, step: ast.AST) -> bool:
    """Whether a node runs at every walk through the innermost loop of the step, or at every call of its function."""
    loop = next(module.tree.loops(step), None)
    if next(module.tree.loops(node), None) is not loop or module.tree.function(node) is not module.tree.function(step):
        return False
    for above in module.tree.above(node):
        if above is loop or isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            return True
        if isinstance(above, ast.If | ast.Try | ast.ExceptHandler | ast.While | ast.For):
            return False
    return True
