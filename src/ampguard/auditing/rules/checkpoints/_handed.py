"""States that leave a function in another way than through `torch.save`: handed to a library, or returned.

A library's `save` (of an accelerator, of a trainer's base class) is known by what it is given: a dictionary with the
state of an optimizer. What a `state_dict()` of the project's own returns is a checkpoint, whoever writes it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import Save, Scaler, scalers
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.payloads import contents
from ampguard.auditing.reading.state_kinds import kinds_of_word
from ampguard.auditing.reading.tree import Function, argument, called, key, receiver, walk_scope

_LIBRARY = regex(r"_*(save|dump|store|write)(_(checkpoint|ckpt|state|state_dict|on_master|file))?")
RETURNS = regex(
    r"_*((get|make|build|collect|create|export|capture|prepare|dump|gather|to)_)?(\w+_)?"
    r"(state|state_?dict|checkpoint|ckpt|snapshot|save_dict|states)|__getstate__"
)
_TO_PLAIN_FILES = regex(r"(^|\.)(accelerator|xm|pickle|joblib|dill|paddle)$|^torch_xla\b")
"""Owners of a `save` or `dump` that writes straight to the file that it is told; others may rename."""

_FULL_SCALE = ("O0", "O3")
"""Levels of apex without a loss scale that changes."""


def handed_saves(module: Module) -> list[Save]:
    """Return the calls that hand an optimizer's state to a function outside of the project that saves."""
    return module.once("handed saves", lambda: list(_handed(module)))


def _handed(module: Module) -> Iterator[Save]:
    for name, calls in module.calls.items():
        for call in calls if _LIBRARY.fullmatch(name) and module.mentions(("optim",)) else ():
            if module.names.stands_for(call.func, "torch.save") or target(module, call) is not None:
                continue
            for payload in (*call.args, *(keyword.value for keyword in call.keywords)):
                holds = contents(module, payload) if _is_plain(payload) else None
                if holds is not None and holds.parameter is None and {"model", "optimizer"} <= holds.kinds:
                    yield Save(call, holds, payload, argument(call, 1, "f"), (module, call))
                    break


def _is_plain(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return called(node) in ("dict", "OrderedDict", "state_dict") or bool(RETURNS.fullmatch(called(node)))
    return isinstance(node, ast.Dict | ast.Name | ast.Attribute)


def writes_in_place(module: Module, save: Save) -> bool:
    """Whether a library's save is one that writes to the file itself."""
    owner = key(receiver(save.call)) or ""
    dotted = (name.rpartition(".")[0] for name in module.names.dotted(save.call.func))
    return any(_TO_PLAIN_FILES.search(name) for name in (owner, *dotted))


def returned_states(module: Module) -> Iterator[tuple[ast.expr, Function]]:
    """Walk what functions named for it return as states, where an optimizer's is in it and a scaler's is not.

    With the model's, it is a checkpoint; without, the state of an optimizer around which a class has put a scaler.
    """
    for function in module.tree.all(ast.FunctionDef, ast.AsyncFunctionDef):
        if not RETURNS.fullmatch(function.name):
            continue
        for node in walk_scope(function):
            if not isinstance(node, ast.Return) or not isinstance(node.value, ast.Name | ast.Dict):
                continue
            holds = contents(module, node.value)
            known = not holds.open and holds.parameter is None
            wanted = {"optimizer"} if _wraps_optimizer(module, function) else {"model", "optimizer"}
            if known and "scaler" not in holds.kinds and wanted <= holds.kinds:
                yield _written(module, node.value), function
                break


def _wraps_optimizer(module: Module, function: Function) -> bool:
    """Whether a method belongs to a class that is named as an optimizer, and scales the loss itself."""
    cls = module.tree.parents.get(function)
    return isinstance(cls, ast.ClassDef) and "Optim" in cls.name and any(s.scope is cls for s in scalers(module))


def _written(module: Module, node: ast.expr) -> ast.expr:
    """Return the dictionary that a name stands for, so that a finding stands where the key would be added."""
    values = module.names.values(node.id, node) if isinstance(node, ast.Name) else []
    return next((v for v in values if isinstance(v, ast.Dict)), node)


def apex_scaler(module: Module) -> Scaler | None:
    """Return the loss scale that `apex.amp` keeps, where the file sets it up and saves its state nowhere."""
    for call in module.calls_of("initialize"):
        if not module.names.stands_for(call.func, "apex.amp.initialize"):
            continue
        level, scale, on = (argument(call, None, n) for n in ("opt_level", "loss_scale", "enabled"))
        off = isinstance(on, ast.Constant) and on.value is False
        constant = isinstance(scale, ast.Constant) and isinstance(scale.value, int | float)
        full = isinstance(level, ast.Constant) and level.value in _FULL_SCALE
        owner = key(receiver(call)) or "amp"
        if not (off or constant or full) and not _keeps(module, owner):
            return Scaler(owner, module.root, call)
    return None


def _keeps(module: Module, owner: str) -> bool:
    stated = (key(receiver(c)) or "" for c in module.calls_of("state_dict", "load_state_dict"))
    return any(place == owner or "scaler" in kinds_of_word(place.rpartition(".")[2]) for place in stated)
