"""Where code runs in the middle of a training: its loops, the hooks that a framework's loop calls, and what these call.

A hook is known by the method's name, which a framework gives it, in a class that builds on something. What a loop
calls is followed upward through the callers in the same file.
"""

import ast
import re

from ampguard.auditing.reading.checkpoints import callers
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.training import region
from ampguard.auditing.reading.tree import Function, Loop
from ampguard.auditing.rules.trackers._isolation import isolated

_HOOK = re.compile(
    r"(training|validation)_(step|step_end|epoch_end)|on_(train|training|validation)_(batch|epoch|step)_(start|begin|end)"
    r"|on_(before|after)_(backward|zero_grad|optimizer_step)|on_before_optimizer_step|on_validation_(start|end)"
    r"|(before|after)_train_(iter|epoch)|before_val_epoch|after_val_epoch"
)
"""Methods that only a training framework calls, while it trains."""

_CALLBACK = re.compile(
    r"on_(log|step_end|step_begin|evaluate|epoch_end|epoch_begin|batch_end|iteration_end|substep_end)|after_step"
    r"|(batch|epoch|eval|fit_batch)_end|compute_loss|train_step"
)
"""Methods that a training framework calls where their class is one of its callbacks or trainers."""

_FRAMEWORK = re.compile(r"Callback|Hook|Trainer$|Lightning|LoggerDestination")
_DEPTH = 3
"""Callers followed upward. Chosen: epoch loop -> `validate` -> `report`."""


def training_place(module: Module, call: ast.Call) -> Loop | Function | None:
    """Return the loop or hook around a call from which nothing keeps the call's errors; else None."""
    place = region(module, call)
    if place is None:
        function = module.tree.function(call)
        place = function if function is not None and is_hook(module, function) else None
    return None if place is None or isolated(module, call, place) else place


def called_from(module: Module, call: ast.Call, *, depth: int = 0) -> Loop | Function | None:
    """Return the loop or hook that calls the function around a call, as `training_place`, in the same file."""
    function = module.tree.function(call)
    if function is None or depth >= _DEPTH or isolated(module, call, function):
        return None
    for above in callers(module, function):
        place = training_place(module, above) or called_from(module, above, depth=depth + 1)
        if place is not None:
            return place
    return None


def is_hook(module: Module, function: Function) -> bool:
    """Whether a training framework calls the method while it trains."""
    cls = module.tree.parents.get(function)
    if not isinstance(cls, ast.ClassDef) or not cls.bases:
        return False
    if _HOOK.fullmatch(function.name):
        return True
    return bool(_CALLBACK.fullmatch(function.name)) and any(_FRAMEWORK.search(ast.unparse(b)) for b in cls.bases)
