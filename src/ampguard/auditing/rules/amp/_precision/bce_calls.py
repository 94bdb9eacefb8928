"""Calls that compute binary cross-entropy of probabilities, and the functions that a call runs on the way there."""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.amp_flags import about_amp
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, assigned, constructed, method, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import Region, region_around
from ampguard.auditing.reading.tree import called, key

WORDS = ("binary_cross_entropy", "BCELoss")

_FUNCTIONS = ("torch.nn.functional.binary_cross_entropy", "torch.functional.binary_cross_entropy")
_LOSSES = ("torch.nn.BCELoss", "torch.nn.modules.loss.BCELoss", "torch.nn.modules.BCELoss")
_ANOTHER_NAME = regex(r"=\s*[\w.]*(\bbinary_cross_entropy|\bBCELoss)\b(?!\()|\(([\w.]*\.)?BCELoss\)")
"""The function under another name, and a class of the project that is a `BCELoss`."""

_PLACES = frozenset({"to", "cuda", "cpu", "train", "eval", "float", "requires_grad_"})


def bans(region: Region) -> bool:
    """Whether an autocast refuses binary cross-entropy of probabilities where it is on."""
    return region.enabled is not False and region.device not in ("cpu", "mps", "hpu", "meta")


def bce_calls(module: Module) -> list[ast.Call]:
    """Return the calls that compute binary cross-entropy of probabilities."""
    return module.once("calls of bce", lambda: list(_calls(module)))


def _calls(module: Module) -> Iterator[ast.Call]:
    for call in module.calls.get("binary_cross_entropy", ()):
        if module.names.stands_for(call.func, *_FUNCTIONS):
            yield call
    if not module.calls.get("BCELoss") and not _ANOTHER_NAME.search(module.about("binary_cross_entropy", "bceloss")):
        return
    for calls in module.calls.values():
        yield from (c for c in calls if isinstance(c.func, ast.Name | ast.Attribute | ast.Call) and _is_loss(module, c))


def _is_loss(module: Module, call: ast.Call) -> bool:
    """Whether an `nn.BCELoss()` is called, and nothing else can be bound to the name but by one choice."""
    if isinstance(call.func, ast.Call):
        return module.names.stands_for(call.func.func, *_LOSSES)
    if key(call.func) in (None, "self"):
        return False
    values = assigned(module, call.func)
    return bool(values) and all(makes_loss(module, v) for v in values)


def makes_loss(module: Module, value: ast.expr) -> bool:
    """Whether a value is an `nn.BCELoss()`, wherever it is moved to, also where a choice gives one in one case."""
    if isinstance(value, ast.IfExp) and not about_amp(ast.unparse(value.test)):
        return makes_loss(module, value.body) or makes_loss(module, value.orelse)
    value = _placed(value)
    if not isinstance(value, ast.Call):
        return isinstance(value, ast.Name | ast.Attribute) and module.names.stands_for(value, *_FUNCTIONS)
    return module.names.stands_for(value.func, *_LOSSES) or _is_subclass(module, value)


def _is_subclass(module: Module, value: ast.Call) -> bool:
    """Whether a class of the project is constructed that is a `BCELoss` and computes nothing else."""
    owner = constructed(module, value, WORDS)
    if owner is None or method(*owner, "forward", WORDS) is not None:
        return False
    return any(owner[0].names.stands_for(base, *_LOSSES) for base in owner[1].bases)


def by_choice(module: Module, call: ast.Call) -> bool:
    """Whether a loss is `nn.BCELoss()` only where a choice makes it so."""
    return any(isinstance(value, ast.IfExp) for value in assigned(module, call.func))


def run_by(module: Module, call: ast.Call, words: tuple[str, ...] = ()) -> list[Place]:
    """Return the functions that a call runs: a function, a method, or the `forward` of a module."""
    place = target(module, call, words)
    if place is not None and place[1].name not in ("__init__", "__call__"):
        return [place]
    values = [call.func] if isinstance(call.func, ast.Call) else assigned(module, call.func)
    found = [constructed(module, _placed(value), words) for value in values]
    return [p for owner in found if owner is not None and (p := method(*owner, "forward", words)) is not None]


def _placed(value: ast.expr) -> ast.expr:
    """Return the construction in `Net().to(device)`, `Net().cuda().train()`."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and called(value) in _PLACES:
        value = value.func.value
    return value


def loss_class(module: Module, value: ast.expr) -> Place | None:
    """Return the `forward` of the class of the project that a value constructs, wherever it is moved to."""
    owner = constructed(module, _placed(value), WORDS)
    return method(*owner, "forward", WORDS) if owner is not None else None


def computes_bce(place: Place, *, depth: int = 0) -> tuple[Module, ast.Call] | None:
    """Return the call of binary cross-entropy that a function makes, itself or through others, and its file.

    None where there is none, and where an autocast that is off stands around it.
    """
    module, function = place
    if depth > 2 or not module.mentions(WORDS):
        return None
    inner = [c for calls in module.calls.values() for c in calls if module.tree.function(c) is function]
    open_calls = [c for c in inner if (r := region_around(module, c)) is None or bans(r)]
    own = set(bce_calls(module))
    for call in open_calls:
        if call in own:
            return module, call
    for call in open_calls:
        for next_place in run_by(module, call, WORDS):
            if next_place[1] is not function and (found := computes_bce(next_place, depth=depth + 1)):
                return found
    return None
