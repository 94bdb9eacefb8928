"""Models that a function puts into evaluation mode and runs by a method, with gradients on: `codec.encode(x)`."""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.modes import model_of
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, OFF, mode_calls, off_around, source
from ampguard.auditing.rules.amp._steps import callers

_RUNS = regex(r"encode|decode|forward|encode_\w+|decode_\w+|get_\w*(features|embeddings?)|extract_features")
_TRAINS = regex(r"train|loss|fit|step|optimi|forward|criterion|export|__init__")


def put_into_eval_and_run(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, what is wrong), once a function."""
    if not module.mentions((".eval()",)) or module.mentions(("ightning", "set_grad_enabled", "SentenceTransformer")):
        return
    seen: set[Function] = set()
    for switch in mode_calls(module, "eval"):
        place, function = model_of(module, switch), module.tree.function(switch)
        if place is None or function is None or function in seen or switch.args or _TRAINS.search(function.name):
            continue
        text = source(module, function)
        if OFF.search(text) or NEEDS.search(text) or f"{place}.train(" in text:
            continue
        run = next((c for c in _runs(module, place) if _is_behind(module, c, switch, function)), None)
        if run is not None and not _may_be_off(module, function, run):
            seen.add(function)
            yield run, f"{place} is in evaluation mode from line {switch.lineno} on, and runs with gradients on"


def _runs(module: Module, place: str) -> Iterator[ast.Call]:
    for name, calls in module.calls.items():
        if _RUNS.fullmatch(name):
            yield from (c for c in calls if key(receiver(c)) == place and (c.args or c.keywords))


def _is_behind(module: Module, run: ast.Call, switch: ast.Call, function: Function) -> bool:
    return module.tree.function(run) is function and run.lineno > switch.lineno and not off_around(module, run)


def _may_be_off(module: Module, function: Function, run: ast.Call) -> bool:
    """Whether the function is called, or what it runs is written, with gradients off; or is a network's own part."""
    owner = module.tree.class_of(function)
    if owner is not None and is_network(module, owner):
        return True
    place = target(module, run)
    if place is not None and OFF.search(source(*place)):
        return True
    decorated = (text for _, text in module.project.texts(f"def {called(run)}("))
    if place is None and any(OFF.search(text) for text in decorated):
        return True
    return any(off_around(module, c) for c in callers(module, function)) or called_where_off(module, function)
