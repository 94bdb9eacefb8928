"""Work that is handed to another thread, process or loop, and whose future nobody keeps: its exception goes with it.

`submit`, `apply_async` and `run_coroutine_threadsafe` raise nothing of what they run. Only the future that they return
holds the exception, until it is asked for its result.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.reading.calls import assigned, definition, method, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk

WORDS = (".submit(", "apply_async(", "run_coroutine_threadsafe(", "create_task(", "ensure_future(")

_POOLS = {
    "submit": ("ThreadPoolExecutor", "ProcessPoolExecutor"),
    "apply_async": ("Pool", "ThreadPool"),
}
_TASKS = ("asyncio.create_task", "asyncio.ensure_future")
_BROAD = ("Exception", "BaseException")


class DroppedFuture(NamedTuple):
    """A call whose future nobody keeps."""

    call: ast.Call
    runs: ast.expr
    """What runs elsewhere: a function, or the call that makes a coroutine."""
    known: bool
    """Whether it is a function of the project that keeps no error to itself."""
    told: bool
    """Whether asyncio says of the exception when the task is gone."""


def dropped_futures(module: Module) -> Iterator[DroppedFuture]:
    """Walk the calls, as statements of their own, that start what nobody asks for its result."""
    if not module.mentions(WORDS):
        return
    for call in module.calls_of(*_POOLS, "run_coroutine_threadsafe", "create_task", "ensure_future"):
        runs = argument(call, 0, "coro") or argument(call, 0, "func")
        if runs is None or not _is_dropped(module, call) or not _keeps_errors(module, call):
            continue
        function = _function(module, call, runs)
        if function is None or not _tells_by_itself(function):
            yield DroppedFuture(call, runs, function is not None, called(call) in ("create_task", "ensure_future"))


def _is_dropped(module: Module, call: ast.Call) -> bool:
    """Whether a call is a statement of its own, or an item of a list that is."""
    above = module.tree.parents[call]
    if isinstance(above, ast.ListComp) and above.elt is call:
        above = module.tree.parents[above]
    return isinstance(above, ast.Expr)


def _keeps_errors(module: Module, call: ast.Call) -> bool:
    """Whether what a call returns holds the exception of what it runs, and nothing else is told of it."""
    name, owner = called(call), receiver(call)
    if name == "run_coroutine_threadsafe":
        return module.names.stands_for(call.func, "asyncio.run_coroutine_threadsafe")
    if name not in _POOLS:
        return module.names.stands_for(call.func, *_TASKS)
    if owner is None or any(k.arg == "error_callback" for k in call.keywords):
        return False
    made = [value for value in assigned(module, owner) if isinstance(value, ast.Call)]
    return any(called(value) in _POOLS[name] for value in made)


def _function(module: Module, call: ast.Call, runs: ast.expr) -> Function | None:
    """Return the function of the project that runs elsewhere."""
    if called(call) in _POOLS:
        owner = module.tree.class_of(call)
        if isinstance(runs, ast.Attribute) and key(runs.value) == "self" and owner is not None:
            found = method(module, owner, runs.attr)
            return found[1] if found is not None else None
        named = definition(module, runs)
        return named[1] if named is not None and not isinstance(named[1], ast.ClassDef) else None
    place = target(module, runs) if isinstance(runs, ast.Call) else None
    return place[1] if place is not None else None


def _tells_by_itself(function: Function) -> bool:
    """Whether a function catches every error somewhere: it may tell of its own."""
    handlers = (node for node in walk(function) if isinstance(node, ast.ExceptHandler))
    return any(h.type is None or (key(h.type) or "").rpartition(".")[2] in _BROAD for h in handlers)
