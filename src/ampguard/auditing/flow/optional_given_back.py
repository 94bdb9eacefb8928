"""Uses of what a framework gives back as it was given: None for None.

`engine, optimizer, _, scheduler = deepspeed.initialize(..., lr_scheduler=scheduler)` and
`model, scheduler = accelerator.prepare(model, scheduler)` wrap what there is; what an arm left None stays None.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import failing_uses, is_asked, is_conditional
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, argument, is_none_literal, key, receiver

_OF_DEEPSPEED = ((1, "optimizer"), (2, "training_data"), (3, "lr_scheduler"))
"""Where the engine's answer holds what, and how that was handed over."""


def uses_of_what_is_given_back(module: Module) -> Iterator[Use]:
    """Walk the first use behind each such call of each name that it may leave None."""
    if not module.mentions(("deepspeed.initialize(", ".prepare(")):
        return
    for call in module.calls_of("initialize", "prepare"):
        statement, function = module.tree.parents[call], module.tree.function(call)
        if not isinstance(statement, ast.Assign) or function is None:
            continue
        for bound, given in _pairs(call, statement.targets[0]):
            origin = _left_none(module, function, given, call)
            if origin is None or is_asked(module, function, bound) or is_asked(module, function, given):
                continue
            use = _use_behind(module, function, bound, statement)
            if use is not None:
                yield Use(bound, use, origin)


def _pairs(call: ast.Call, bound: ast.expr) -> Iterator[tuple[str, str]]:
    """Walk (what is bound, what was handed over in its place) of plain names."""
    names = bound.elts if isinstance(bound, ast.Tuple) else [bound]
    owner = key(receiver(call)) or ""
    given: list[tuple[ast.expr, ast.expr | None]] = []
    if owner == "deepspeed" and len(names) == 4:
        given = [(names[at], argument(call, None, word)) for at, word in _OF_DEEPSPEED]
    elif "accelerator" in owner.lower() and len(names) == len(call.args):
        given = list(zip(names, call.args, strict=True))
    for name, value in given:
        if isinstance(name, ast.Name) and isinstance(value, ast.Name):
            yield name.id, value.id


def _left_none(module: Module, function: Function, name: str, call: ast.Call) -> ast.AST | None:
    """Return the default or the assignment that leaves a name None on a way to a call."""
    stores = [n for n in module.tree.named(name, function) if not isinstance(n.ctx, ast.Load)]
    before = [module.tree.statement(n) for n in stores if n.lineno < call.lineno]
    if not before:
        given = parameters(function)
        return next((a for a, d in given if a.arg == name and d is not None and is_none_literal(d)), None)
    nones = [s for s in before if isinstance(s, ast.Assign) and _may_be_none(s.value)]
    return nones[0] if len(nones) == 1 and len(before) <= 2 and _in_other_arms(module, before) else None


def _may_be_none(value: ast.expr) -> bool:
    if isinstance(value, ast.IfExp):
        return is_none_literal(value.body) or is_none_literal(value.orelse)
    return is_none_literal(value)


def _in_other_arms(module: Module, before: list[ast.stmt]) -> bool:
    """Whether no assignment stands behind the other on every way: they are in the arms of one test."""
    if len(before) < 2:
        return True
    one, other = (module.tree.parents[s] for s in before)
    return isinstance(other, ast.If) and (one is other or module.tree.inside(other, one))


def _use_behind(module: Module, function: Function, name: str, statement: ast.Assign) -> ast.AST | None:
    end = statement.end_lineno or statement.lineno
    for use in failing_uses(module, function, name):
        if use.lineno > end and not is_conditional(module, use, function):  # type: ignore[attr-defined]
            later = (n for n in module.tree.named(name, function) if not isinstance(n.ctx, ast.Load))
            return None if any(end < n.lineno <= use.lineno for n in later) else use  # type: ignore[attr-defined]
    return None
