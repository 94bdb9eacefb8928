"""What no path from a backward pass shows: clipping and schedules in a trainer's hooks, hooks on the parameters.

A framework's own trainer scales the loss in one file and calls hooks that clip in another. Where no file of the
project unscales anything, what such a hook clips is still scaled. A hook on a parameter sees each gradient while the
backward pass runs, before anybody could unscale it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.gradient_events import clip_calls
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import STATE_WORDS, scalers
from ampguard.auditing.reading.kinds import is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, receiver, walk

_UNSCALES = regex(r"unscale_|accelerator\.(backward|clip)|deepspeed\.initialize")
"""A word of a project that unscales, or whose framework does."""

SCALES = regex(r"scaler\w*\.scale\(")
_STEPS = regex(r"scaler\w*\.step\(")
ASKS_SCALE = regex(
    r"\A(?=.*sched)(?=.*(get_scale\(\)\s*[<>!=]|[<>!=]=\s*[\w.]*get_scale\(|[<>]\s*[\w.]*get_scale\(|(old|last|prev\w*|before)_scale|scale_before|"
    r"skipped|found_inf))",
    re.DOTALL,
)
"""A file that speaks of schedulers and asks whether the scale fell."""

_EACH_STEP = regex(r"step|batch|iter|optim", re.IGNORECASE)
_HOOK = regex(r"_*(on|before|after|pre|post)_\w+|\w+_(start|begin|end|hook|callback)")
_HOOKS = regex(r"Hook|Callback|Plugin|Handler|Extension")
_CLAMPS = regex(r"clamp|clip")
_KNOWS_SCALE = regex(r"scale", re.IGNORECASE)


def clips_in_hooks(module: Module) -> Iterator[ast.Call]:
    """Walk the clipping calls in hooks of a project that scales its loss somewhere and unscales nowhere."""
    if not module.mentions(("clip_grad", "grad_clip", "gradient_clip")) or module.calls.get("backward"):
        return
    found = [call for call in clip_calls(module) if in_hook(module, call)]
    if found and module.project.says(SCALES, *STATE_WORDS) and not module.project.says(_UNSCALES):
        yield from found


def in_hook(module: Module, call: ast.Call) -> bool:
    """Whether a call stands in a method that a trainer runs at a point of its loop: `after_step` of a `...Hook`."""
    function = module.tree.function(call)
    cls = module.tree.class_of(call)
    if function is None or cls is None or not _HOOK.fullmatch(function.name):
        return False
    return any(_HOOKS.search(name) for name in (cls.name, *map(ast.unparse, cls.bases)))


def schedules_in_hooks(module: Module) -> Iterator[ast.Call]:
    """Walk the scheduler steps in hooks of each step, where a project steps a scaler and never asks for its scale."""
    if not module.mentions(("sched",)):
        return
    steps = [c for c in module.calls_of("step") if is_scheduler(module, receiver(c)) and not (c.args or c.keywords)]
    found = [call for call in steps if in_hook(module, call) and _EACH_STEP.search(_hook_name(module, call))]
    if found and module.project.says(_STEPS, *STATE_WORDS) and not module.project.says(ASKS_SCALE):
        yield from found


def _hook_name(module: Module, call: ast.Call) -> str:
    function = module.tree.function(call)
    return "" if function is None else function.name


def clamping_hooks(module: Module) -> Iterator[ast.Call]:
    """Walk the calls that clamp gradients by a hook on the parameters, beside a scaler of this file."""
    if not scalers(module):
        return
    for call in module.calls_of("register_hook"):
        if _clamps(module, call):
            yield call
    for name, calls in module.calls.items():
        for call in calls if "clip" in name or "clamp" in name else ():
            place = target(module, call, ("register_hook",))
            if place is not None and place[0] is not module and _registers(*place):
                yield call


def _registers(module: Module, function: Function) -> bool:
    own = (c for c in module.calls_of("register_hook") if module.tree.function(c) is function)
    return any(_clamps(module, call) for call in own)


def _clamps(module: Module, call: ast.Call) -> bool:
    """Whether what a hook does with the gradient that it is given is to clamp it to bounds that know no scale."""
    hook = call.args[0] if call.args else None
    if isinstance(hook, ast.Name):
        found = module.names.lookup(hook.id, hook)
        hook = found[1][-1].node if found is not None else None  # type: ignore[assignment]
    if not isinstance(hook, ast.Lambda | ast.FunctionDef):
        return False
    calls = [called(at) for at in walk(hook) if isinstance(at, ast.Call)]
    return any(_CLAMPS.match(name) for name in calls) and not _KNOWS_SCALE.search(ast.unparse(hook))
