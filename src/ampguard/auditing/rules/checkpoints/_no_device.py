"""A `map_location` that is None: written down, or a device that is None by default and that nobody asks about."""

import ast

from ampguard.auditing.flow.optional_plain import is_touched
from ampguard.auditing.reading.checkpoints import argument_for, callers
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, is_none_literal

_DEVICES = ("device", "dev", "gpu", "gpu_id")
"""What else is handed on, a `map_location=None`, is an option of who calls."""


def gives_no_device(module: Module, call: ast.Call, where: ast.expr) -> bool:
    """Whether a load is told None, or a device that is None by default here or in the function that calls this."""
    if is_none_literal(where):
        return True
    function = module.tree.function(call)
    if not isinstance(where, ast.Name) or where.id not in _DEVICES or function is None:
        return False
    return _is_none_by_default(module, function, where.id) or _is_handed_none(module, function, where.id)


def _is_none_by_default(module: Module, function: Function, name: str) -> bool:
    default = next((d for arg, d in parameters(function) if arg.arg == name), None)
    return default is not None and is_none_literal(default) and not is_touched(module, function, name)


def _is_handed_none(module: Module, function: Function, name: str) -> bool:
    """Whether a function of the file hands on a device of its own that is None by default."""
    own = next((arg for arg, d in parameters(function) if arg.arg == name and d is None), None)
    if own is None or is_touched(module, function, name):
        return False
    for call in callers(module, function):
        given, around = argument_for(call, function, name), module.tree.function(call)
        if isinstance(given, ast.Name) and around is not None and _is_none_by_default(module, around, given.id):
            return True
    return False
