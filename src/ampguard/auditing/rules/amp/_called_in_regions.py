"""Backward passes that run inside an autocast region through what only a name leads to.

A function that the region hands on (`optimizer.step(closure)`), and a method of an object that is not known
(`self.logic.train_step(batch)`), where every function of that name runs a backward pass.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, region_around
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, receiver

_TRAINS = re.compile(
    r"_*(train|training|fit|optimi[sz]e|forward_(and_)?backward)(_?(step|batch|iter|iteration|one_\w+))?_*"
)
_BACKWARD = re.compile(r"\.(manual_)?backward\(")
_OWN = re.compile(r"\bself\.(\w+)\(")


def trained_in_regions(module: Module) -> Iterator[tuple[ast.Call, Region]]:
    """Walk the calls in regions that lead to a backward pass by name alone, with the region."""
    for call in _candidates(module):
        region = region_around(module, call)
        if region is not None and region.enabled is not False:
            yield call, region


def _candidates(module: Module) -> Iterator[ast.Call]:
    for name, calls in module.calls.items():
        if _TRAINS.fullmatch(name):
            for call in calls:
                if receiver(call) is not None and target(module, call) is None and _all_run_backward(module, name):
                    yield call
    if "backward" in module.text:
        yield from (c for c in module.calls_of("step") if any(_is_closure(module, arg) for arg in c.args))


def _is_closure(module: Module, node: ast.expr) -> bool:
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    last = bound[1][-1].node if bound is not None else None
    return isinstance(last, FUNCTIONS) and bool(_BACKWARD.search(_source(module, last)))


def _all_run_backward(module: Module, name: str) -> bool:
    """Whether the file defines methods of that name, and each that does anything runs a backward pass."""
    functions = [f for f in module.functions if f.name == name and not _is_empty(f)]
    return bool(functions) and all(_runs_backward(module, f) for f in functions if not _hands_on(module, f, name))


def _runs_backward(module: Module, function: Function) -> bool:
    text = _source(module, function)
    if _BACKWARD.search(text):
        return True
    own = module.tree.class_of(function)
    names = set(_OWN.findall(text))
    others = (f for f in module.functions if f.name in names and module.tree.class_of(f) is own and f is not function)
    return own is not None and any(_BACKWARD.search(_source(module, f)) for f in others)


def _hands_on(module: Module, function: Function, name: str) -> bool:
    """Whether a function only calls another one of its own name, as the handler that opens the region does."""
    return any(called(c) == name for c in module.calls_of(name) if module.tree.inside(c, function))


def _is_empty(function: Function) -> bool:
    """Whether a function is abstract: nothing but a docstring, `pass`, `...` or a raise."""
    return all(isinstance(s, ast.Expr | ast.Pass | ast.Raise) and not _acts(s) for s in function.body)


def _acts(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)


def _source(module: Module, function: Function) -> str:
    return module.text_of(function)
