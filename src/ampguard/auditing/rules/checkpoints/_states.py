"""Whether what is loaded is a state or a model, by what is done with it and by how it is called."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import torch_saves
from ampguard.auditing.reading.guards import tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.checkpoints._used_by_callers import callers_use, is_returned

_STATE_KEY = regex(
    r"state|model|optim|weights|net\b|ema|epoch|sched|scaler|encoder|decoder|generator|discriminator|backbone|params",
    re.I,
)
_SETTINGS_KEY = regex(r"args|cfg|config|hparams|hyper_?parameters|opt|options")
_STATE_NAME = regex(
    r"(^|_)(load(ed)?_(net|state|model|ckpt|weights)|weights|pretrained|ckpt|cpt|checkpoint|state|state_?dict|snapshot|model|net|network|encoder|decoder|generator|discriminator"
    r"|params)\d*$",
    re.I,
)
_LOADER = regex(
    r"(load|read|get|restore|resume)_?(\w+_)?"
    r"(checkpoint|ckpt|model|weights|state|state_?dict|save_?dict|snapshot|net(work)?|params|pretrained)s?(_\w+)?"
    r"|restore|resume|from_pretrained",
    re.I,
)
_PATH = regex(
    r"ckpt|checkpoint|\.pth\b|pytorch_model|state_dict|optim\w*\.(pt|bin)|model(_\w+)?\.(pt|bin)"
    r"|\bmodel_?(path|file|fn|filename)\b|weights_?(path|file)",
    re.I,
)
_WEIGHTS = regex(r"pretrain|weights?\b|resume|\b(model|net)\b", re.I)
_TAKES = regex(r"_*load_(\w+_)?(state|state_?dict|weights|params|parameters|checkpoint|model)")
_OF_MODULES = frozenset({"eval", "train", "parameters", "named_parameters", "state_dict", "load_state_dict"})
_READS = frozenset({"get", "pop", "items", "copy", "values", "to", "cuda", "cpu", "module"})
_ASKS_FOR_GPU = regex(r"cuda|gpu|device", re.I)


def is_state(module: Module, call: ast.Call) -> bool:
    """Whether what a load gives is a state or a model: by its path, its name, its function or what is done with it."""
    if _PATH.search(ast.unparse(argument(call, 0, "f") or call)) or _is_used_as_state(module, call):
        return True
    function = module.tree.function(call)
    if function is not None and _restores(module, function):
        by_path = _WEIGHTS.search(ast.unparse(argument(call, 0, "f") or call))
        if by_path or _LOADER.fullmatch(function.name.lstrip("_")):
            return True
    if function is not None and _loads_a_model(module, function, call):
        return True
    if _is_named_as_state(module, call, function):
        return True
    return function is not None and is_returned(module, call) and callers_use(module, function, _is_put_to_use)


def _is_put_to_use(module: Module, call: ast.Call) -> bool:
    """Whether what a call gives is used as a state, at once or by the name that it gets."""
    return _is_used_as_state(module, call) or _is_named_as_state(module, call, module.tree.function(call))


def _is_named_as_state(module: Module, call: ast.Call, function: Function | None) -> bool:
    """Whether what is loaded is returned by a loader of states, or lands in a place that is named or used as one."""
    parent = module.tree.parents.get(call)
    while isinstance(parent, ast.Subscript):  # `torch.load(path)[name]`
        parent = module.tree.parents.get(parent)
    if isinstance(parent, ast.Return):
        return function is not None and bool(_LOADER.fullmatch(function.name.lstrip("_")))
    target = parent.targets[0] if isinstance(parent, ast.Assign) else getattr(parent, "target", None)
    place = key(target) if target is not None else None
    if place is None:
        return False
    if _STATE_NAME.search(place.rpartition(".")[2]):
        return True
    return any(_is_used_as_state(module, use) for use in _uses(module, call, place))


_PLAIN_LOADER = regex(r"_*(load|read|restore|from)(_from)?(_(disk|file|path|pickle))?")
_OF_A_MODEL = regex(r"\b(fitted|trained|saved)\b.*\b(model|network|estimator|policy|agent)\b", re.IGNORECASE)
_IS_A_MODEL = regex(r"Module\b|Model\b|Net\b|Policy\b|Agent\b|Network\b")


def _loads_a_model(module: Module, function: Function, call: ast.Call) -> bool:
    """Whether a function `load` gives what it loads, and says that this is a trained model: in words, or by its class.

    A pickled model lies on the device it was trained on just as its state does.
    """
    if not _PLAIN_LOADER.fullmatch(function.name):
        return False
    owner = module.tree.class_of(call)
    of_model = owner is not None and any(_IS_A_MODEL.search(t) for t in (owner.name, *map(ast.unparse, owner.bases)))
    if not of_model and not _OF_A_MODEL.search(" ".join((ast.get_docstring(function) or "").split())[:300]):
        return False
    statement = module.tree.statement(call)
    place = key(statement.targets[0]) if isinstance(statement, ast.Assign) and statement.value is call else None
    given = [node.value for node in walk_scope(function) if isinstance(node, ast.Return)]
    return any(value is call or (place is not None and key(value) == place) for value in given)


def _restores(module: Module, function: Function) -> bool:
    """Whether a function gives a state to a module."""
    return any(module.tree.function(c) is function for c in module.calls.get("load_state_dict", ()))


def _uses(module: Module, call: ast.Call, place: str) -> Iterator[ast.expr]:
    """Walk where the place is read: in the function of the load, or of `self.x` in its class."""
    around = module.tree.class_of(call) if place.startswith("self.") else None
    for node in walk_scope(module.tree.scope(call)) if around is None else walk(around):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and key(node) == place:
            yield node


def _is_used_as_state(module: Module, node: ast.expr) -> bool:
    """Whether the value is given to `load_state_dict`, read by a key of states, or used as a module."""
    at: ast.AST = node
    for _ in range(6):
        parent = module.tree.parents.get(at)
        if isinstance(parent, ast.Subscript) and parent.value is at:
            if _names_state(parent.slice):
                return True
        elif isinstance(parent, ast.Attribute):
            above = module.tree.parents.get(parent)
            is_method = isinstance(above, ast.Call) and above.func is parent
            if is_method and parent.attr in _OF_MODULES:
                return True
            if parent.attr not in _READS:
                return False
            if is_method and parent.attr in ("get", "pop") and above.args and _names_state(above.args[0]):  # type: ignore[union-attr]
                return True
            parent = above if is_method else parent
        elif isinstance(parent, ast.Call):
            return bool(_TAKES.fullmatch(called(parent)))
        elif isinstance(parent, ast.Compare):
            return isinstance(parent.ops[0], ast.In | ast.NotIn) and _names_state(parent.left)
        elif not isinstance(parent, ast.keyword | ast.Starred | ast.IfExp | ast.BoolOp):
            return False
        at = parent  # type: ignore[assignment]
    return False


def _names_state(node: ast.expr) -> bool:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    return bool(_STATE_KEY.search(node.value) or _SETTINGS_KEY.fullmatch(node.value))


def gpu_is_there(module: Module, call: ast.Call) -> bool:
    """Whether a test before the load asks for the GPU, and the other branch loads onto another device."""
    if not any(_ASKS_FOR_GPU.search(ast.unparse(test)) for test, _ in tests_before(module, call)):
        return False
    scope = module.tree.scope(call)
    return any(
        argument(other, 1, "map_location") is not None and module.tree.scope(other) is scope
        for other in module.calls_of("load")
        if other is not call and receiver(other) is not None
    )


def written_before(module: Module, call: ast.Call) -> bool:
    """Whether the function of a load saved to the same path: on this machine, from the devices that it has."""
    path, scope = argument(call, 0, "f"), module.tree.scope(call)
    given = ast.dump(path) if path is not None else ""
    return scope is not module.root and any(
        save.lineno < call.lineno and module.tree.scope(save) is scope and ast.dump(where) == given
        for save in torch_saves(module)
        if (where := argument(save, 1, "f")) is not None
    )
