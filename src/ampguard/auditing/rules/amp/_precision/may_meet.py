"""Casts to float16 that meet a scaler in some runs: where something else than precision decides, or through a call."""

import ast

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._steps import arms, callers, enclosing, tests_above

_OF_PRECISION = regex(r"amp|fp16|fp32|half|precision|float|dtype|scaler|mixed|bf16|16|32|eval|infer|test|cpu|mps")
"""Words of a test that may be on just where the scaler is off, or where nothing is trained."""


def may_meet(module: Module, cast: ast.Call, scaler: ast.Call) -> bool:
    """Whether no test of precision parts a cast and a scaler of one class or function, or of caller and callee."""
    above = [*tests_above(module, cast), *tests_above(module, scaler)]
    if arms(module, cast, scaler) or any(_OF_PRECISION.search(ast.unparse(test).lower()) for test, _ in above):
        return False
    own, other = module.tree.class_of(cast), module.tree.class_of(scaler)
    ours, theirs = enclosing(module, cast), enclosing(module, scaler)
    return own is other and (own is not None or ours is theirs or _calls(module, ours, theirs))


def _calls(module: Module, callee: ast.AST, caller: ast.AST) -> bool:
    """Whether one of two functions runs the other, under no test of precision."""
    if not isinstance(callee, ast.FunctionDef) or not isinstance(caller, ast.FunctionDef):
        return False
    there = [c for c in callers(module, callee) if enclosing(module, c) is caller]
    there += [c for c in callers(module, caller) if enclosing(module, c) is callee]
    return any(not any(_OF_PRECISION.search(ast.unparse(t).lower()) for t, _ in tests_above(module, c)) for c in there)
