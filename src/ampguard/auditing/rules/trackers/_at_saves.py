"""Functions that save a model or a checkpoint and tell a tracker of it, with nothing that keeps the tracker's errors.

Who calls such a function is a training, in this file or another: the error ends it, though the checkpoint is written.
"""

import ast
import re
from collections.abc import Iterable, Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import callers, torch_saves
from ampguard.auditing.reading.kinds import tracker_call
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, walk_scope
from ampguard.auditing.rules.trackers._isolation import isolated

_NAMED = regex(r"_*(\w+_)?(save|store|persist|checkpoint|ckpt|snapshot)(_\w+)?|on_save", re.IGNORECASE)
_SAVES = regex(r"save_(pretrained|checkpoint|model|state|weights|file)|save_ckpt|_save_checkpoint", re.IGNORECASE)


def told_at_saves(module: Module, exposed: Iterable[tuple[ast.AST, str]]) -> Iterator[tuple[ast.AST, str, Function]]:
    """Walk the first exposed word to a tracker of each function that saves, or that such a function calls."""
    told = set()
    for node, what in exposed if module.mentions(("save",)) else ():
        function = module.tree.function(node)
        if function is None or function in told or isolated(module, node, function):
            continue
        saver = function if _saves(module, function) else _calling_saver(module, function)
        if saver is not None and not _is_guarded(module, saver):
            told.add(function)
            yield node, what, saver


def _calling_saver(module: Module, function: Function) -> Function | None:
    """Return the function that saves and calls this one with nothing around the call."""
    for call in callers(module, function):
        above = module.tree.function(call)
        if above is not None and _saves(module, above) and not isolated(module, call, above):
            return above
    return None


def _is_guarded(module: Module, function: Function) -> bool:
    """Whether every call of a function in this file keeps its errors."""
    above = callers(module, function)
    return bool(above) and all(isolated(module, call, module.root) for call in above)


def _saves(module: Module, function: Function) -> bool:
    if not _NAMED.fullmatch(function.name):
        return False
    if any(module.tree.function(save) is function for save in torch_saves(module)):
        return True
    calls = (node for node in walk_scope(function) if isinstance(node, ast.Call) and _SAVES.fullmatch(called(node)))
    return any(tracker_call(module, call) is None for call in calls)
