"""Evaluations that run their model in a way that cannot be seen: by a method of it, or by one of their own object.

`self.model.predict(batch)` and `self.forward_batch(batch)` of a loop over batches; what they run may be a subclass's.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.runs import (
    NEEDS,
    OFF,
    Comprehension,
    comprehension,
    evaluates,
    evaluations,
    source,
)

_OWN = regex(
    r"forward|predict|infer|^_*((shared|common|model)_)?step$|^_*(compute|get|calc(ulate)?)_\w*loss|^_*loss$|(^|_)(run|process|compute|eval|val|valid|test|training|train)\w*_(batch|step|loss|iter)$"
)
_HANDED = regex(r"forward|predict|infer|loss|criterion|(^|_)(step|batch)|_fn$")
_NO_RUN = frozenset(
    {"eval", "train", "to", "cuda", "cpu", "parameters", "named_parameters", "modules", "children", "state_dict"}
    | {"load_state_dict", "zero_grad", "requires_grad_", "apply", "register_forward_hook", "append", "add", "update"}
    | {"generate", "reset", "load", "save", "get", "log", "set_epoch", "half", "float", "eq", "size", "named_modules"}
)
"""Methods that run nothing in a model or switch gradients off themselves (`generate`), and those of other things."""

_SWITCH = regex(r"([\w.]+)\.eval\(\)")


def recorded_hidden_runs(module: Module) -> Iterator[tuple[Function, ast.Call]]:
    """Walk the evaluating functions that put a model into evaluation mode and run it, unseen, with gradients on."""
    for function, own in _unseen(module) if module.mentions((".eval()",)) else ():
        text = own if ".eval()" in own else _prepared_by(module, function)
        if not text or OFF.search(own):
            continue
        run = _first_run(module, function, set(_SWITCH.findall(text)))
        if run is not None and not _is_off(module, run):
            yield function, run


def _prepared_by(module: Module, function: Function) -> str:
    """Return the source of the method of its own that a function calls first of all and that calls eval(), or ""."""
    first = next((s for s in function.body if not isinstance(getattr(s, "value", None), ast.Constant)), None)
    call = first.value if isinstance(first, ast.Expr) and isinstance(first.value, ast.Call) else None
    place = target(module, call, (".eval()",)) if call is not None and key(receiver(call)) == "self" else None
    text = source(*place) if place is not None else ""
    return text if ".eval()" in text and not OFF.search(text) else ""


def settled_hidden_runs(module: Module, models: set[str]) -> Iterator[tuple[Function, ast.Call]]:
    """Walk the evaluating functions that switch gradients off and run one of the models, or their object, unseen."""
    for function, text in _unseen(module):
        if OFF.search(text):
            run = _first_run(module, function, models)
            if run is not None:
                yield function, run


def _unseen(module: Module) -> Iterator[tuple[Function, str]]:
    known = {found.function for found in evaluations(module)}
    for function in module.functions:
        if function not in known and evaluates(module, function):
            text = source(module, function)
            if ".backward(" not in text and not NEEDS.search(text):
                yield function, text


def _first_run(module: Module, function: Function, models: set[str]) -> ast.Call | None:
    calls = (node for node in walk_scope(function) if isinstance(node, ast.Call))
    return next((call for call in calls if _hides_run(module, call, models)), None)


def _hides_run(module: Module, call: ast.Call, models: set[str]) -> bool:
    """Whether a call is given what a loop over data gives, and is one of a model, with one, or of a step."""
    loop = comprehension(module, call) or next(module.tree.loops(call), None)
    if loop is None or isinstance(loop, ast.While) or not (call.args or call.keywords):
        return False
    name, own = called(call), (key(call.func) or "").startswith("self.")
    given = [*call.args, *(k.value for k in call.keywords)]
    of_model = key(receiver(call)) in models and name not in _NO_RUN and not name.startswith(("set_", "load_", "save_"))
    with_model = bool(_HANDED.search(name)) and any(key(value) in models for value in given)
    if not (of_model or with_model or (own and _OWN.search(name))):
        return False
    over = loop.generators[-1].iter if isinstance(loop, Comprehension) else loop.iter
    if isinstance(over, ast.Call) and called(over) == "range":
        return False
    return is_given_data(module, call, loop)


def is_given_data(module: Module, call: ast.Call, loop: Loop | Comprehension) -> bool:
    """Whether a call is given something that the loop around it goes over, or that its body makes of that."""
    names = module.once(("of the data", loop), lambda: _of_data(loop))
    given = (*call.args, *(k.value for k in call.keywords))
    return any(isinstance(n, ast.Name) and n.id in names for value in given for n in walk(value))


def _of_data(loop: Loop | Comprehension) -> frozenset[str]:
    """Return the names of what a loop goes over, and of what its body makes of that."""
    if isinstance(loop, Comprehension):
        return frozenset(n.id for g in loop.generators for n in walk(g.target) if isinstance(n, ast.Name))
    names = {n.id for n in walk(loop.target) if isinstance(n, ast.Name)} if isinstance(loop, ast.For) else set()
    for node in walk_scope(loop):
        if isinstance(node, ast.Assign) and any(isinstance(n, ast.Name) and n.id in names for n in walk(node.value)):
            names |= {n.id for t in node.targets for n in walk(t) if isinstance(n, ast.Name)}
    return frozenset(names)


def _is_off(module: Module, call: ast.Call) -> bool:
    place = target(module, call)
    if place is not None:
        return bool(OFF.search(source(*place)))
    name = re.escape(called(call))
    off = r"(no_grad|inference_mode|set_grad_enabled)"
    decorated = rf"{off}[^\n]*\n\s*(@[^\n]*\n\s*)*def {name}\("
    return module.project.says(re.compile(rf"{decorated}|def {name}\((?:[^\n]*\n){{0,12}}?[^\n]*{off}"))
