"""Casts to float16 that meet a scaler in some runs: where something else than precision decides, or through a call."""

import ast
from collections.abc import Callable

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._steps import arms, callers, enclosing, tests_above

_OF_PRECISION = regex(r"amp|fp16|fp32|half|precision|float|dtype|scaler|mixed|bf16|16|32|eval|infer|test|cpu|mps")
"""Words of a test that may be on just where the scaler is off, or where nothing is trained."""


def may_meet(module: Module, cast: ast.Call, scaler: ast.Call) -> bool:
    """Whether no test of precision stands above a cast, and a scaler is of its class or function, or one it runs with.

    The scaler may be made under a test: where it is, the cast is made too.
    """
    if arms(module, cast, scaler) or _asks(module, cast):
        return False
    own, other = module.tree.class_of(cast), module.tree.class_of(scaler)
    ours, theirs = enclosing(module, cast), enclosing(module, scaler)
    return own is other and (own is not None or ours is theirs or _calls(module, ours, theirs))


def _calls(module: Module, callee: ast.AST, caller: ast.AST) -> bool:
    """Whether one of two functions runs the other, or a third runs both, with no test of precision above the cast."""
    if not isinstance(callee, ast.FunctionDef):
        return False
    others = callers(module, caller) if isinstance(caller, ast.FunctionDef) else []
    there = [c for c in callers(module, callee) if enclosing(module, c) in {caller, *map(_around(module), others)}]
    there += [c for c in others if enclosing(module, c) is callee]
    return any(not _asks(module, c) for c in there)


def _around(module: Module) -> Callable[[ast.AST], ast.AST]:
    return lambda node: enclosing(module, node)


def _asks(module: Module, node: ast.AST) -> bool:
    return any(_OF_PRECISION.search(ast.unparse(test).lower()) for test, _ in tests_above(module, node))
