"""What a function loads and returns, as those use it who call the function, here or in other files."""

import ast
from collections.abc import Callable, Iterator

from ampguard.auditing.reading.calls import same_function, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, key, walk_scope

_FILES = 12
"""Files that are asked: a name that more of them call says too little."""


def is_returned(module: Module, call: ast.Call) -> bool:
    """Whether a function returns what a call in it gives, by itself or by the name that it got."""
    parent, function = module.tree.parents.get(call), module.tree.function(call)
    if isinstance(parent, ast.Return):
        return True
    place = key(parent.targets[0]) if isinstance(parent, ast.Assign) else None
    returned = (node.value for node in walk_scope(function or module.root) if isinstance(node, ast.Return))
    return place is not None and any(key(value) == place for value in returned if value is not None)


def callers_use(module: Module, function: Function, asks: Callable[[Module, ast.Call], bool]) -> bool:
    """Whether what a function returns is used in some way where it is called."""
    for where in _files(module, function.name):
        for call in where.calls_of(function.name):
            place = target(where, call, (function.name,))
            if place is not None and same_function(place, (module, function)) and asks(where, call):
                return True
    return False


def _files(module: Module, name: str) -> Iterator[Module]:
    """Walk this file and the others that call a function of that name and load states."""
    yield module
    project = module.project
    others = (path for path in project.files if path != module.path and project.holds(path, (f"{name}(",)))
    paths = [path for path in others if project.holds(path, ("load_state_dict",))]
    for path in paths if len(paths) <= _FILES else ():
        where = project.module(path)
        if where is not None and where.role != "test":
            yield where
