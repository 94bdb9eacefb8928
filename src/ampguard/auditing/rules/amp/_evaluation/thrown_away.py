"""Forward passes whose result is thrown away, with gradients on, in a file that knows how to switch them off."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.runs import MODEL, OFF, off_around, run_model, source
from ampguard.auditing.rules.amp._steps import callers

_MEANT = regex(
    r"register_\w*hook|backward|requires_grad|autograd|enable_grad|jit|fx\.|profil|trac(e|ing)|warm", re.IGNORECASE
)
_VERB = regex(
    r"(^|\.)_*[a-z]*(set|sync|update|copy|check|verify|move|offload|register|add|train|test|freeze|reset|apply|switch)_"
)
"""Names of what does something to a model, and is none."""


def thrown_away(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, what is wrong) of models that are called for what they do, not for what they give."""
    if not module.mentions(("no_grad", "inference_mode")):
        return
    for node in module.tree.all(ast.Expr):
        call = node.value
        place = run_model(call) if isinstance(call, ast.Call) and (call.args or call.keywords) else None
        if place is None or not MODEL.search(place) or not isinstance(call, ast.Call) or off_around(module, call):
            continue
        if any(isinstance(a, ast.Constant) for a in call.args) or _is_a_function(module, call):
            continue
        if _VERB.search(place) or _is_used_again(module, call):
            continue
        function = module.tree.function(call)
        text = source(module, function) if isinstance(function, FUNCTIONS) else module.text
        if not _MEANT.search(text) and not (function is not None and _may_be_off(module, function)):
            yield call, f"what {module.segment(call, 40)} gives is thrown away, and it runs with gradients on"


def _is_used_again(module: Module, call: ast.Call) -> bool:
    """Whether what a model is given is read behind the call: it may have written its answer there."""
    given = [a.id for a in (*call.args, *(k.value for k in call.keywords if k.arg)) if isinstance(a, ast.Name)]
    around = module.tree.function(call) or module.root
    uses = (n for name in given for n in module.tree.named(name, around))
    return any(n.lineno > (call.end_lineno or call.lineno) and isinstance(n.ctx, ast.Load) for n in uses)


def _is_a_function(module: Module, call: ast.Call) -> bool:
    """Whether a call runs a function or a class, by the name that defines or imports it."""
    found = module.names.lookup(call.func.id, call.func) if isinstance(call.func, ast.Name) else None
    return found is not None and any(b.kind in ("import", "function", "class") for b in found[1])


def _may_be_off(module: Module, function: Function) -> bool:
    owner = module.tree.class_of(function)
    if owner is not None and is_network(module, owner):
        return True
    lines = (line.strip() for line in source(module, function).split("\n"))
    if any(OFF.search(line) for line in lines if not line.startswith("with ")):
        return True
    return any(off_around(module, c) for c in callers(module, function)) or called_where_off(module, function)
