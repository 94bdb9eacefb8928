"""Runs whose model and first epoch come from a function of another file that restores the model and nothing else.

`start_epoch, model = load_saved_model(path, model)`, and `for epoch in range(start_epoch, epochs)` with a save of the
model alone in it: the optimizer, and the schedule, begin anew at a later epoch.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import Save, restored, saves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, walk_scope
from ampguard.auditing.rules.checkpoints._progress_apart import start_of


def saved_to_be_loaded_elsewhere(module: Module) -> Iterator[tuple[Save, str]]:
    """Walk the saves of a model alone in the loop of such a run, each with the function that restores it."""
    if not module.mentions(("epoch", "step", "iter")) or "model" in restored(module):
        return
    for save in saves(module):
        if save.holds.open or save.holds.kinds != {"model"}:
            continue
        starts = (start_of(loop) for loop in module.tree.loops(save.call))
        loaders = (_loader(module, start) for start in starts if start is not None)
        loader = next((name for name in loaders if name is not None), None)
        if loader is not None:
            yield save, loader


def _loader(module: Module, start: ast.expr) -> str | None:
    """Return the function that gives the epoch to start at, where it restores a model and no optimizer."""
    function, place = module.tree.function(start), key(start)
    for node in walk_scope(function) if function is not None else ():
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call) or place is None:
            continue
        given = [t for bound in node.targets for t in getattr(bound, "elts", [bound])]
        if any(key(t) == place for t in given) and _restores_model_alone(module, node.value):
            return called(node.value)
    return None


def _restores_model_alone(module: Module, call: ast.Call) -> bool:
    found = target(module, call, ("load_state_dict",))
    if found is None:
        return False
    where, function = found
    loads = restored(where)
    held = {kind for kind, calls in loads.items() if any(where.tree.function(c) is function for c in calls)}
    return "model" in held and not held & {"optimizer", "scheduler"}
