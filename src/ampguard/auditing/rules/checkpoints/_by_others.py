"""Checkpoints that a callback has another object write: `self.model.save_weights(path)`, whose class is not known here.

What the call does is looked up by the method's name, in the file of the project that defines it: it must write to the
path that it is given with `torch.save`, and rename nothing.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, target
from ampguard.auditing.reading.checkpoints import renames, torch_saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import argument, called, key, receiver, walk_scope

_SAVES = regex(r"save(_(weights|model|checkpoint|network|state|ckpt|params|to_file))+")
_DEFINITIONS = 3
"""Definitions of one name that are looked at; more say that the name tells too little."""


def written_by_others(module: Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Walk (the call, its path) of saves in classes of checkpoints that another object writes in place."""
    if not module.mentions(("heckpoint",)):
        return
    for name, calls in module.calls.items():
        for call in calls if _SAVES.fullmatch(name) else ():
            cls, function, path = module.tree.class_of(call), module.tree.function(call), argument(call, 0, "path")
            owner = key(receiver(call))
            if cls is None or function is None or path is None or owner in (None, "self") or target(module, call):
                continue
            if "heckpoint" not in cls.name and "heckpoint" not in function.name:
                continue
            renamed = any(isinstance(n, ast.Call) and renames(module, n) for n in walk_scope(function))
            if not renamed and _writes_in_place(module, name):
                yield call, path


def _writes_in_place(module: Module, name: str) -> bool:
    """Whether every definition of a method in the project saves straight to a path that it is given."""
    found = list(_definitions(module, name))
    return bool(found) and len(found) <= _DEFINITIONS and all(_saves_given(*place) for place in found)


def _definitions(module: Module, name: str) -> Iterator[Place]:
    asked = re.compile(rf"\bdef {re.escape(name)}\(")
    for path, text in module.project.texts():
        if "test" in path or not asked.search(text):
            continue
        where = module if path == module.path else module.project.module(path)
        if where is not None:
            yield from ((where, f) for f in where.functions if f.name == name)


def _saves_given(where: Module, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {arg.arg for arg, _ in parameters(function)}
    own = [c for c in torch_saves(where) if where.tree.function(c) is function]
    given = any(key(argument(c, 1, "f")) in names for c in own)
    careful = any(
        isinstance(n, ast.Call) and (renames(where, n) or "atomic" in called(n)) for n in walk_scope(function)
    )
    return given and not careful
