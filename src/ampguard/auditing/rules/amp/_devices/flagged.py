"""Flags that are asked before things are moved to a GPU, `if self.use_gpu`, and others moved without asking it.

A flag of the object counts for its class, one of the settings, or a name (`if args.cuda`), for the function.

What is made for GPUs alone (cupy) counts like a move. A method that is run only where a flag, or CUDA, is asked for is
left alone, and so is one that stops without CUDA.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key
from ampguard.auditing.rules.amp._devices.demands import MEASURES, demands
from ampguard.auditing.rules.amp._devices.refused import stops_before, tests_outside
from ampguard.auditing.rules.amp._steps import callers, enclosing, tests_above

_FLAG = regex(r"(^|[._])((use|with|on|is|has|enable)_?)?(gpu|cuda)s?$", re.IGNORECASE)
_ASKED = regex(
    r"cuda|gpu|device|cpu|distributed|parallel|world_size|rank|ddp|dist_|nccl|flash|xformers|deepspeed|fp16|half|amp\b|\dbit",
    re.IGNORECASE,
)
"""Tests that ask for a GPU, or for what is there on GPUs alone."""

_FOR_GPUS_BY_NAME = regex(r"cuda|gpu|distributed|parallel|ddp", re.IGNORECASE)
_TEST = regex(r"\bif[ \t(]+(not[ \t]+)?[\w.]*(gpu|cuda)s?\b", re.IGNORECASE)
_FOR_GPUS = ("cupy",)
"""Packages that run on GPUs alone."""


def moved_past_a_flag(module: Module) -> Iterator[ast.Call]:
    """Walk the calls that need CUDA and stand under no test, where others of the class or function stand under one."""
    if not _TEST.search(module.about("gpu", "cuda")):
        return
    by_scope: dict[ast.AST, list[ast.Call]] = {}
    for call in (*demands(module), *_of_gpu_packages(module)):
        if called(call) not in MEASURES:
            owner = module.tree.class_of(call)
            for scope in (enclosing(module, call), *(() if owner is None else (owner,))):
                by_scope.setdefault(scope, []).append(call)
    found: dict[ast.Call, None] = {}
    for scope, calls in by_scope.items():
        if any(_is_flagged(module, call, of_object=isinstance(scope, ast.ClassDef)) for call in calls):
            found.update(dict.fromkeys(call for call in calls if not is_asked(module, call)))
    yield from found


def _is_flagged(module: Module, call: ast.Call, *, of_object: bool) -> bool:
    """Whether a call stands in the arm where a flag is on, of the object or of anything else."""
    return any(inside and _is_flag(test, of_object=of_object) for test, inside in tests_outside(module, call))


def _is_flag(test: ast.expr, *, of_object: bool) -> bool:
    """`self.use_gpu`, also `args.cuda`, `self.use_gpu > 0`, `self.use_gpu and ...`."""
    if isinstance(test, ast.BoolOp):
        return any(_is_flag(value, of_object=of_object) for value in test.values)
    place = key(test.left if isinstance(test, ast.Compare) else test) or ""
    return _FLAG.search(place) is not None and place.startswith("self.") is of_object


def is_asked(module: Module, call: ast.expr) -> bool:
    """Whether a test around a call, or around those of its function, asks for the device, or a failure is caught."""
    function = module.tree.function(call)
    if _asks_around(module, call) or stops_before(module, call) or any(True for _ in module.tree.handlers_around(call)):
        return True
    return function is not None and (
        _FOR_GPUS_BY_NAME.search(function.name) is not None or _leaves_or_is_asked(module, function)
    )


def _asks_around(module: Module, call: ast.AST) -> bool:
    return any(_ASKED.search(ast.unparse(test)) for test, _ in tests_outside(module, call))


def _leaves_or_is_asked(module: Module, function: Function) -> bool:
    """Whether a function is run only where something asks, or its own head leaves without the flag."""
    calls = callers(module, function)
    if calls and all(any(_ASKED.search(ast.unparse(t)) for t, _ in tests_above(module, c)) for c in calls):
        return True
    heads = (s for s in function.body if isinstance(s, ast.If | ast.Assert))
    return any(
        isinstance(s, ast.Assert) or isinstance(s.body[-1], ast.Return | ast.Raise)
        for s in heads
        if _ASKED.search(ast.unparse(s.test))
    )


def _of_gpu_packages(module: Module) -> Iterator[ast.Call]:
    if not module.mentions(_FOR_GPUS):
        return
    for calls in module.calls.values():
        for call in calls:
            if isinstance(call.func, ast.Attribute) and any(
                name.startswith(tuple(f"{p}." for p in _FOR_GPUS)) for name in module.names.dotted(call.func)
            ):
                yield call
