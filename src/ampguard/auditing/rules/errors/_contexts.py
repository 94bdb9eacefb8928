"""Contexts that drop what their block raises: an `__exit__` whose every answer is true, whatever came."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, walk, walk_scope

_MEANT = regex(r"suppress|ignor|swallow|catch|silen|quiet|skip|\b(re)?try|expect|raises|assert|warn", re.IGNORECASE)
"""What a context is called, or says of itself, that is there to drop exceptions."""


def dropping_exits(module: Module) -> Iterator[tuple[ast.Return, str]]:
    """Walk the last answers of the `__exit__` methods of classes that do not say that they drop exceptions."""
    if module.role == "test" or not module.mentions(("exit__",)):
        return
    for function in module.functions:
        cls = module.tree.parents.get(function)
        if function.name not in ("__exit__", "__aexit__") or not isinstance(cls, ast.ClassDef):
            continue
        answer = function.body[-1]
        said = f"{cls.name} {ast.get_docstring(cls) or ''} {ast.get_docstring(function) or ''}"
        if isinstance(answer, ast.Return) and _always_true(function) and not _MEANT.search(said):
            yield answer, cls.name


def _always_true(function: Function) -> bool:
    """Whether a method answers by nothing but what is true, and never looks at what came."""
    own = list(walk_scope(function))
    answers = [node.value for node in own if isinstance(node, ast.Return)]
    if not all(_is_true(function, value) for value in answers) or any(isinstance(node, ast.Raise) for node in own):
        return False
    given = {arg.arg for arg, _ in parameters(function)[1:]}
    tests = [node.test for node in own if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert)]
    return not any(isinstance(node, ast.Name) and node.id in given for test in tests for node in walk(test))


def _is_true(function: Function, value: ast.expr | None) -> bool:
    """Whether an answer is true by itself: `True`, another constant that is, or the context."""
    if isinstance(value, ast.Name):
        return value.id == parameters(function)[0][0].arg
    return isinstance(value, ast.Constant) and bool(value.value)
