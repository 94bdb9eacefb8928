"""Models that are loaded, scripted or traced, and saved, in files that say nothing of modes.

A scripted or traced module keeps the mode that it was made in, a trace even its dropout: who loads it predicts so.
`torch.onnx.export` is no such case: it switches to evaluation mode by itself.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._evaluation.runs import source
from ampguard.auditing.rules.amp._steps import bound_to, enclosing

_WAYS = ("torch.jit.script", "torch.jit.trace")
_LOADS = regex(r"^(load|restore|resume)_\w*|^load$", re.IGNORECASE)
_SAYS_MODE = regex(r"\.eval\(|\.train\(|\.training\b|eval_mode\b")


def exported_in_any_mode(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the call that scripts or traces a model for a file, the model), for models that are loaded before it."""
    for call in module.calls_of("script", "trace"):
        place = key(call.args[0]) if call.args else None
        if place is None or not set(_WAYS) & set(module.names.dotted(call.func)) or not _is_saved(module, call):
            continue
        if _is_loaded(module, call, place) and not _may_be_switched(module, call, place):
            yield call, place


def _is_saved(module: Module, call: ast.Call) -> bool:
    """Whether what is scripted is written to a file: `torch.jit.script(model).save(path)`, or by its name."""
    made, around = bound_to(module, call), enclosing(module, call)
    saves = [save for save in module.calls_of("save") if enclosing(module, save) is around]
    if any(receiver(save) is call for save in saves):
        return True
    return made is not None and any(made in map(key, (receiver(save), *save.args)) for save in saves)


def _is_loaded(module: Module, call: ast.Call, place: str) -> bool:
    """Whether weights are read into the model before the call: by itself, or by a function that is handed it."""
    before = (c for c in _before(module, call) if _LOADS.search(called(c)))
    return any(key(receiver(c)) == place or place in map(key, c.args) for c in before)


def _may_be_switched(module: Module, call: ast.Call, place: str) -> bool:
    """Whether what makes, loads or is handed the model may put it into evaluation mode."""
    for other in _before(module, call):
        if place not in (bound_to(module, other), *map(key, other.args)):
            continue
        found = target(module, other)
        if found is not None and _SAYS_MODE.search(source(*found)):
            return True
        if "pretrained" in called(other):
            return True  # a library's own way: it gives models in evaluation mode
    return False


def _before(module: Module, call: ast.Call) -> Iterator[ast.Call]:
    around = enclosing(module, call)
    for calls in module.calls.values():
        yield from (c for c in calls if c.lineno < call.lineno and enclosing(module, c) is around)
