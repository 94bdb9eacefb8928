"""Scalers at work in another file than the one that saves: of those who call its functions, of related classes."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import bases, target
from ampguard.auditing.reading.checkpoints import Scaler, keeps_scaler, scaler_at, scalers
from ampguard.auditing.reading.kinds import is_scaler_class
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function

_WORD = ("GradScaler",)


def inherited_scaler(module: Module, node: ast.AST) -> Scaler | None:
    """Return the scaler that a base class in another file works with, of the class whose method the node is in."""
    own = module.tree.class_of(node)
    for where, cls in bases(module, own) if own is not None else ():
        found = None if where is module or keeps_scaler(where) else _of_class(where, cls)
        if found is not None:
            return found
    return None


def derived_scaler(module: Module, function: Function) -> tuple[Module, Scaler] | None:
    """Return the scaler of a class in another file that inherits a method and runs it as it is, and that file."""
    cls = module.tree.parents.get(function)
    if not isinstance(cls, ast.ClassDef):
        return None
    for where in _files_with(module, cls.name):
        for child in where.tree.all(ast.ClassDef):
            scaler = None if keeps_scaler(where) or _writes_anew(child, function) else _of_class(where, child)
            if scaler is not None and any(base is cls for _, base in bases(where, child)):
                return where, scaler
    return None


def calling_scaler(module: Module, function: Function) -> tuple[Module, Scaler] | None:
    """Return the scaler beside a call of a function in another file, which keeps the state of none, and that file."""
    cls = module.tree.parents.get(function)
    for where in _files_with(module, cls.name if isinstance(cls, ast.ClassDef) else function.name):
        for call in () if keeps_scaler(where) else where.calls_of(function.name):
            place = target(where, call)
            scaler = scaler_at(where, call) if place is not None and place[1] is function else None
            if scaler is not None:
                return where, scaler
    return None


def _files_with(module: Module, name: str) -> Iterator[Module]:
    """Walk the other files that construct a scaler and speak of a function or class of this one."""
    project = module.project
    for path in project.files:
        if path == module.path or path.endswith("__init__.py") or not project.holds(path, _WORD):
            continue
        where = project.module(path) if project.holds(path, (name,)) else None
        if where is not None and where.role not in ("test", "benchmark"):
            yield where


def _writes_anew(cls: ast.ClassDef, function: Function) -> bool:
    return any(getattr(item, "name", None) == function.name for item in cls.body)


def _of_class(where: Module, cls: ast.ClassDef) -> Scaler | None:
    return next((s for s in scalers(where) if s.scope is cls and _certain(where, s)), None)


def _certain(where: Module, scaler: Scaler) -> bool:
    """Whether the scaler's construction is seen, so that its name alone does not make it one."""
    return scaler.made is not None and is_scaler_class(where, scaler.made.func)
