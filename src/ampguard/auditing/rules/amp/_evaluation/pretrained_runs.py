"""Models that a file loads only to use them, and runs with gradients on: a metric's, a reconstruction's, an encoder's.

Such a model is never handed on, trained, frozen or wrapped where it is loaded, so nothing else can have switched its
gradients off: what it is run on records a graph that nobody needs.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, OFF, off_around, source
from ampguard.auditing.rules.amp._steps import callers

_LOADS = regex(r"load_(\w+_)?(\w*model|\w*net|network|\w*gan|\w*vae|unet|backbone)")
_OF_NO_MODEL = regex(r"[Tt]oken|[Pp]rocess|[Cc]onfig|[Ff]eature|[Pp]ipe|[Ss]chedul|[Vv]ocab|Sentence|Dataset")
_RUNS = regex(r"forward|encode|decode|encode_\w+|get_\w*(features|embeddings?)|extract_features")
_USED = regex(r"forward|encode|decode|encode_\w+|get_\w+|extract_\w+|to|cuda|cpu|eval|half|float|config|device|dtype")
_CHAIN = frozenset({"to", "cuda", "cpu", "eval", "half", "float", "bfloat16"})
_TRAINS = regex(r"train|loss|fit|step|optimi|forward|criterion|setup|build")


def pretrained_runs(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, what is wrong) of models that are loaded and used alone, once a model."""
    if not module.mentions(("from_pretrained(", "load_")):
        return
    for name, loaded in _loaded(module):
        if not _only_used(module, name, loaded):
            continue
        run = next((c for c in _runs(module, name) if _records(module, c)), None)
        if run is not None:
            yield run, f"{name}, loaded at line {loaded.lineno} for its answers alone, runs with gradients on"


def _loaded(module: Module) -> Iterator[tuple[str, ast.Assign]]:
    """Walk the names to which a model is loaded, each with the assignment."""
    for node in module.tree.all(ast.Assign):
        value = node.value
        while isinstance(value, ast.Call) and called(value) in _CHAIN and receiver(value) is not None:
            value = receiver(value) or value
        if isinstance(value, ast.Call) and isinstance(node.targets[0], ast.Name) and _loads(module, value):
            yield node.targets[0].id, node


def _loads(module: Module, call: ast.Call) -> bool:
    """Whether a call gives a model with its weights that may still be trained."""
    if called(call) == "from_pretrained":
        made = key(receiver(call)) or ""
        return bool(made) and not _OF_NO_MODEL.search(made)
    if not _LOADS.fullmatch(called(call)) or _OF_NO_MODEL.search(called(call)):
        return False
    place = target(module, call)
    return place is None or not (OFF.search(source(*place)) or "requires_grad" in source(*place))


def _only_used(module: Module, name: str, loaded: ast.Assign) -> bool:
    """Whether a name is bound once, and stands nowhere but in front of what runs or moves its model."""
    scope = module.tree.function(loaded) or module.root
    for node in module.tree.named(name, scope):
        if module.tree.inside(node, loaded.targets[0]):
            continue
        above = module.tree.parents[node]
        ran = isinstance(above, ast.Call) and above.func is node
        used = isinstance(above, ast.Attribute) and _USED.fullmatch(above.attr) is not None
        if not isinstance(node.ctx, ast.Load) and not _moves(above, name):
            return False
        if isinstance(node.ctx, ast.Load) and not (ran or used):
            return False
    return True


def _moves(statement: ast.AST, name: str) -> bool:
    """Whether a statement is `model = model.to(device)`."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(value, ast.Call) and called(value) in _CHAIN and key(receiver(value)) == name


def _runs(module: Module, name: str) -> Iterator[ast.Call]:
    for call in module.tree.all(ast.Call):
        if not call.args and not call.keywords:
            continue
        if key(call.func) == name or (key(receiver(call)) == name and _RUNS.fullmatch(called(call))):
            yield call


def _records(module: Module, call: ast.Call) -> bool:
    """Whether gradients are on around a run, in a function that does not train."""
    function = module.tree.function(call)
    text = source(module, function) if isinstance(function, FUNCTIONS) else module.text
    if off_around(module, call) or OFF.search(text) or NEEDS.search(text) or "optim." in text:
        return False
    return function is None or not (_TRAINS.search(function.name) or _is_off(module, function))


def _is_off(module: Module, function: Function) -> bool:
    around = module.tree.function(function)  # one that is defined in another is known to that alone
    if any(off_around(module, c) for c in callers(module, function)):
        return True
    return function.name != "main" and around is None and called_where_off(module, function)
