"""What an expression measures: a clock's reading, a span of time, the allocator's bytes."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver

_CLOCKS = frozenset(
    {"time.time", "time.perf_counter", "time.monotonic", "time.process_time", "time.thread_time", "time.clock"}
    | {"time.time_ns", "time.perf_counter_ns", "time.monotonic_ns", "time.process_time_ns", "timeit.default_timer"}
    | {"datetime.datetime.now", "datetime.datetime.utcnow", "datetime.now", "datetime.utcnow"}
)
_SPANS = frozenset({"timeit.timeit", "timeit.repeat"})
_ALLOCATOR = frozenset(
    {"max_memory_allocated", "memory_allocated", "max_memory_reserved", "memory_reserved", "max_memory_cached"}
    | {"memory_cached", "current_allocated_memory", "driver_allocated_memory"}
)
_PASSED_ON = frozenset({"float", "int", "long", "cpu", "detach", "bool", "to", "double", "view", "reshape", "flatten"})
_COMPARES = frozenset({"eq", "ne", "gt", "ge", "lt", "le", "isin", "isfinite", "isnan", "logical_and", "logical_not"})
_MASK = regex(r"(^|[_.])masks?$|(^|[_.])valid(_mask|_pixels|_idx)?$", re.IGNORECASE)
"""What tells for each element whether it counts, by its name."""

_DEPTH = 4


def clock(module: Module, node: ast.expr, *, depth: int = 0) -> str | None:
    """Return the clock that an expression is a reading of ("time.perf_counter"), or None."""
    if isinstance(node, ast.Call):
        return next((n for n in module.names.dotted(node.func) if n in _CLOCKS), None)
    if isinstance(node, ast.Name | ast.Attribute) and depth < _DEPTH:
        values = assigned(module, node)
        return next((c for v in values if v is not node and (c := clock(module, v, depth=depth + 1))), None)
    return None


def span(module: Module, node: ast.expr) -> str | None:
    """Return how a span of time is measured where the expression is one: by a difference or by a call; else None."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        left, right = clock(module, node.left), clock(module, node.right)
        return f"a difference of {left or right}() readings" if left and (right or _stored(node.right)) else None
    if not isinstance(node, ast.Call):
        return None
    if called(node) == "elapsed_time" and receiver(node) is not None and len(node.args) == 1:
        return "the time between two CUDA events"
    return next((f"what {n}() measured" for n in module.names.dotted(node.func) if n in _SPANS), None)


def allocator(module: Module, node: ast.expr) -> str | None:
    """Return the allocator's counter that a call reads ("torch.cuda.max_memory_allocated"), or None."""
    if not isinstance(node, ast.Call) or called(node) not in _ALLOCATOR:
        return None
    return next((n for n in module.names.dotted(node.func) if n.startswith("torch.")), None)


def masked(module: Module, node: ast.expr) -> ast.expr | None:
    """Return the condition whose true elements an expression counts, as `(labels != -100).sum()` does, or None."""
    while isinstance(node, ast.Call) and called(node) in _PASSED_ON and receiver(node) is not None:
        node = receiver(node)  # type: ignore[assignment]
    if not isinstance(node, ast.Call) or called(node) not in ("sum", "count_nonzero"):
        return None
    owner = receiver(node)
    functional = owner is None or (isinstance(owner, ast.Name) and owner.id in ("torch", "np", "numpy"))
    counted = node.args[0] if functional and node.args else owner
    return _condition(module, counted) if counted is not None else None


def _condition(module: Module, node: ast.expr, *, depth: int = 0) -> ast.expr | None:
    while isinstance(node, ast.Call) and called(node) in _PASSED_ON and receiver(node) is not None:
        node = receiver(node)  # type: ignore[assignment]
    if isinstance(node, ast.Compare):
        return node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Mult):
        return (
            node if _condition(module, node.left, depth=depth) and _condition(module, node.right, depth=depth) else None
        )
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return node
    if isinstance(node, ast.Call) and called(node) in _COMPARES and (node.args or receiver(node) is not None):
        return node
    if isinstance(node, ast.Name | ast.Attribute) and depth < _DEPTH:
        values = assigned(module, node)
        found = _condition(module, values[0], depth=depth + 1) if len(values) == 1 else None
        return found or (node if _MASK.search(key(node) or "") else None)
    return None


def _stored(node: ast.expr) -> bool:
    """Whether the earlier reading of a difference is kept somewhere: a name, an attribute, an item."""
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
