"""Objects handed to what saves them by itself: `Checkpointer(model, optimizer=optimizer)`, `save_checkpoint(net, opt)`.

Which objects the checkpoint will hold is told by what is handed over. An object that holds others (a trainer, `self`)
may bring the scaler along: then nothing is said, unless its `state_dict` can be read.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases, definition, target
from ampguard.auditing.reading.checkpoints import Scaler, scaler_at, scalers
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, walk_scope

_KEEPERS = regex(
    r"\w*(Checkpointer|CheckpointManager|CheckpointSaver|CheckpointHandler)|Checkpoint"
    r"|_*(save|write|store)_?(train(ing)?_|model_)?(checkpoint|ckpt|snapshot|train(ing)?_state)s?"
)
_MAY_HOLD = regex(
    r"(^|[._'])(self|(\w*_)?(trainer|engine|runner|states?|objects?|checkpointables?|kwargs|extras?|payload|dict)|amp\w*)"
    r"('\])?$",
    re.I,
)


def keepers(module: Module) -> Iterator[tuple[ast.Call, Scaler, bool]]:
    """Walk the calls that hand an optimizer to what saves it, and no scaler that is at work: whether it is seen here.

    Not those of functions of the project: what these write can be read.
    """
    for name, calls in module.calls.items():
        for call in calls if _KEEPERS.fullmatch(name) else ():
            given = [*call.args, *(k.value for k in call.keywords)]
            if not any(_is_optimizer(module, a) for a in given) or _may_bring(module, given, call):
                continue
            if name[:1].islower() and target(module, call) is not None:
                continue
            near = None if _own_object(module, given) else scaler_at(module, call)
            scaler = near or _inside_trainer(module, call, given)
            if scaler is not None:
                yield call, scaler, near is not None


def _is_optimizer(module: Module, node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and is_optimizer(module, node)


def may_bring_scaler(module: Module, call: ast.Call) -> bool:
    """Whether a call hands over a scaler, or an object that may hold one."""
    return _may_bring(module, [*call.args, *(k.value for k in call.keywords)], call)


def _may_bring(module: Module, given: list[ast.expr], call: ast.Call) -> bool:
    """Whether a scaler is among what is handed over, or an object that may hold it."""
    if any(k.arg is None for k in call.keywords) or any(isinstance(a, ast.Starred) for a in given):
        return True
    names = [n for a in given for n in (a, *walk_scope(a)) if isinstance(n, ast.Name | ast.Attribute)]
    if any(is_scaler(module, n) for n in names):
        return True
    return any(_MAY_HOLD.search(key(a) or "") for a in given if a is not _own_object(module, given))


def _own_object(module: Module, given: list[ast.expr]) -> ast.expr | None:
    """Return the argument that is `self`, or a weak reference to it, where its class's `state_dict` can be read."""
    for node in given:
        inner = node.args[0] if isinstance(node, ast.Call) and called(node) in ("proxy", "ref") and node.args else node
        cls = module.tree.class_of(node) if key(inner) == "self" else None
        if cls is not None and any(True for _ in _state_dicts(module, cls)):
            return node
    return None


def _state_dicts(module: Module, cls: ast.ClassDef) -> Iterator[str]:
    """Walk the source of the `state_dict` methods of a class and its bases."""
    for _, at in ((module, cls), *bases(module, cls)):
        for item in at.body:
            if isinstance(item, FUNCTIONS) and item.name == "state_dict":
                yield ast.unparse(item)


def _inside_trainer(module: Module, call: ast.Call, given: list[ast.expr]) -> Scaler | None:
    """Return the scaler of an object that the same function makes around the optimizer, and does not hand over."""
    function = module.tree.function(call)
    own = _own_object(module, given)
    cls = module.tree.class_of(call)
    texts = list(_state_dicts(module, cls)) if own is not None and cls is not None else []
    for made in walk_scope(function) if function is not None else ():
        if not isinstance(made, ast.Assign) or not isinstance(made.value, ast.Call):
            continue
        place = key(made.targets[0])
        if place is None or not any(_is_optimizer(module, a) for a in _all_given(made.value)):
            continue
        scaler = _scaler_of_made(module, made.value.func)
        last = place.rpartition(".")[2]
        if scaler is not None and not any("scaler" in text or last in text for text in texts):
            return Scaler(f"{place}.{scaler.place.removeprefix('self.')}", module.tree.scope(call), None)
    return None


def _all_given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(k.value for k in call.keywords)]


def _scaler_of_made(module: Module, func: ast.expr) -> Scaler | None:
    """Return the scaler that works in a class of the project, `Mixed(...)` or `(Mixed if half else Plain)(...)`."""
    for node in (func.body, func.orelse) if isinstance(func, ast.IfExp) else (func,):
        found = definition(module, node)
        if found is not None and isinstance(found[1], ast.ClassDef):
            scaler = next((s for s in scalers(found[0]) if s.scope is found[1]), None)
            if scaler is not None:
                return scaler
    return None
