"""Restores of model and optimizer, in code that saves neither itself, that leave the schedule as it was made."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.checkpoints import restored, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, walk_scope
from ampguard.auditing.rules.checkpoints._handed import handed_saves


def left_out_of_loads(module: Module, schedule: ast.expr | None) -> Iterator[tuple[ast.Call, str]]:
    """Walk the restores of an optimizer beside that of a model, each with the schedule that its file or class steps."""
    loads = restored(module)
    place = key(schedule)
    if place is None or "scheduler" in loads or "last_epoch" in module.text:
        return
    if any("optimizer" in save.holds.kinds or save.holds.open for save in (*saves(module), *handed_saves(module))):
        return
    models = {module.tree.function(call) for call in loads.get("model", ())}
    for call in loads.get("optimizer", ()):
        function = module.tree.function(call)
        if (
            function in models
            and function is not None
            and _reads_file(function)
            and _of_one_class(module, call, schedule)
        ):
            yield call, place
            return


def _reads_file(function: ast.AST) -> bool:
    names = (called(node) for node in walk_scope(function) if isinstance(node, ast.Call))
    return any("load" in name and name != "load_state_dict" for name in names)


def _of_one_class(module: Module, call: ast.Call, schedule: ast.expr | None) -> bool:
    """Whether what is restored and what is stepped belong to one object, or to no object."""
    return schedule is not None and module.tree.class_of(call) is module.tree.class_of(schedule)
