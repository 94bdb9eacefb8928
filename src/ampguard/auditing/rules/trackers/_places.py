"""Where code runs in the middle of a training: its loops, the hooks that a framework's loop calls, and what these call.

Functions that a project sends its metrics through are such places too, whoever calls them.

A hook is known by the method's name, which a framework gives it, in a class that builds on something. What a loop
calls is followed upward through the callers in the same file.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import callers
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.training import region
from ampguard.auditing.reading.tree import Function, Loop, called
from ampguard.auditing.rules.trackers._isolation import isolated

_HOOK = regex(
    r"(training|validation)_(step|step_end|epoch_end)|on_(train|training|validation)_(batch|epoch|step)_(start|begin|end)"
    r"|on_(before|after)_(backward|zero_grad|optimizer_step)|on_before_optimizer_step|on_validation_(start|end)"
    r"|(before|after)_train_(iter|epoch)|before_val_epoch|after_val_epoch"
)
"""Methods that only a training framework calls, while it trains."""

_CALLBACK = regex(
    r"on_(log|step_end|step_begin|evaluate|epoch_end|epoch_begin|batch_end|iteration_end|substep_end)|after_step"
    r"|(batch|epoch|eval|fit_batch)_end|compute_loss|train_step"
)
"""Methods that a training framework calls where their class is one of its callbacks or trainers."""

_FRAMEWORK = regex(r"Callback|Hook|Trainer$|Lightning|LoggerDestination")
_SENDS = regex(
    r"_*(log|track|report|record|write|send|push|emit|publish|add)(_\w+)?|\w+_(metrics?|scalars?|loss(es)?)|__call__",
    re.I,
)
_MEASURES = regex(r"_*(log|track|report|record|write|add)_?(metrics?|scalars?|loss(es)?|training_?\w*)")
_PROGRESS = regex(r"(^|_)(steps?|epochs?|iter|iters|iterations?|it|batch_idx|n_iter)($|_)", re.I)
_OWNERS = regex(r"Logger|Tracker|Writer|Monitor|Recorder|Reporter|Backend|Wandb|WandB|MLFlow|Mlflow|Neptune|Comet")
_GUARDS = regex(r"safe|catch|retry|suppress|ignore|guard|never|swallow|try_|best_effort|tolera", re.I)
_TRAININGS = regex(
    r"_*(train|fit|learn|(run_)?training|train_model|(run_)?train(ing)?_loop|((iterate|iter|run|train)_)epochs(_\w+)?)"
)
"""Functions that are generators of what a training has found; not `train_batches`, which gives data."""

_DEPTH = 3
"""Callers followed upward. Chosen: epoch loop -> `validate` -> `report`."""


def training_place(module: Module, call: ast.AST) -> Loop | Function | None:
    """Return the loop or hook around a call from which nothing keeps the call's errors; else None."""
    place = region(module, call)
    if place is None:
        function = module.tree.function(call)
        place = function if function is not None and is_hook(module, function) else _fed_by_training(module, call)
    return None if place is None or isolated(module, call, place) else place


def _fed_by_training(module: Module, call: ast.AST) -> Loop | None:
    """Return the loop around a call over what a training gives while it runs: `for stats in iterate_epochs(...)`."""
    for loop in module.tree.loops(call):
        over = loop.iter if isinstance(loop, ast.For | ast.AsyncFor) else None
        if isinstance(over, ast.Call) and _TRAININGS.fullmatch(called(over)):
            return loop
    return None


def called_from(module: Module, call: ast.AST, *, depth: int = 0) -> Loop | Function | None:
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


def is_wrapper(module: Module, function: Function) -> bool:
    """Whether a function is what a training sends its metrics through: by its name, and a step or its class's name.

    One whose every caller in the file, or whose decorator, keeps errors is none.
    """
    if not _SENDS.fullmatch(function.name) or any(_GUARDS.search(ast.unparse(d)) for d in function.decorator_list):
        return False
    names = [arg.arg for arg, _ in parameters(function) if arg.arg not in ("self", "cls")]
    cls = module.tree.parents.get(function)
    owned = isinstance(cls, ast.ClassDef) and bool(_OWNERS.search(cls.name))
    known = owned or _MEASURES.fullmatch(function.name) or any(_PROGRESS.search(name) for name in names)
    if not known or not (names or function.args.kwarg):
        return False
    above = callers(module, function)
    return not above or not all(isolated(module, call, module.root) for call in above)
