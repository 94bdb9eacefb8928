"""Evaluations that run several models and put some of them into evaluation mode, but not all.

`encoder.eval()`, and then `decoder(encoder(x))`: the decoder stays in the mode that it trains in. What is a model of
its own is told by its `train()`, or, in a class whose training runs it too, by its own state; a part of one that is
switched goes with it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._evaluation.done_to_models import switches_off
from ampguard.auditing.rules.amp._evaluation.runs import (
    NEEDS,
    OFF,
    TRAINING_MODE_WANTED,
    looped,
    mode_calls,
    run_model,
    source,
)
from ampguard.auditing.rules.amp._evaluation.same_models import bare, same_models

_OTHER_WAYS = regex(r"set_mode|eval_mode\b|evaluating\w*\(|functional_call|\w_eval\(|\.apply\(|\.training\b")
_NO_MODEL = regex(r"loss|crit|metric|optim|sched|scaler|transform|augment|logger|writer|tokeni|sampler", re.IGNORECASE)
_OF_MODULES = ("load_state_dict", "state_dict", "parameters", "named_parameters", "requires_grad_")
"""What is called on models alone."""

Left = tuple[Function, str, str, ast.Call]
"""An evaluation, the model that it switches, the model that it leaves as it is, and the run of that."""


def left_beside_others(module: Module) -> Iterator[Left]:
    """Walk the models that an evaluation without gradients leaves in training mode beside one that it switches."""
    if not module.mentions((".train(",)) or not module.mentions(("no_grad", "inference_mode")):
        return
    for function, switched in _switching(module).items():
        text = source(module, function)
        if not OFF.search(text) or _OTHER_WAYS.search(text) or NEEDS.search(text) or TRAINING_MODE_WANTED.search(text):
            continue
        for run, place in _runs(module, function):
            if place not in switched and _stays(module, function, place, switched):
                yield function, min(switched), place, run
                break


def _switching(module: Module) -> dict[Function, set[str]]:
    """Return the functions that put models into evaluation mode by their own names, each with those models."""
    found: dict[Function, set[str]] = {}
    for call in mode_calls(module, "eval"):
        function = module.tree.function(call)
        if function is not None:
            found.setdefault(function, set()).add("" if _is_one_of_many(module, call) else bare(receiver(call)) or "")
    return {function: places for function, places in found.items() if not places & {"", "self"}}


def _is_one_of_many(module: Module, call: ast.Call) -> bool:
    """Whether a call switches what a loop goes over: `for net in nets: net.eval()`."""
    owner = receiver(call)
    looked = module.names.lookup(owner.id, owner) if isinstance(owner, ast.Name) else None
    return looked is not None and any(binding.kind == "loop" for binding in looked[1])


def _runs(module: Module, function: Function) -> Iterator[tuple[ast.Call, str]]:
    """Walk the runs over data in a function, those of its object's models in its own methods too."""
    for node in walk_scope(function):
        place = run_model(node)
        if place is None or not isinstance(node, ast.Call) or not node.args or not looped(module, node):
            continue
        yield node, place
        if key(receiver(node)) != "self" or called(node) not in module.function_names:
            continue
        helper = target(module, node)
        if helper is not None and helper[0] is module and helper[1] is not function:
            inner = (n for n in walk_scope(helper[1]) if isinstance(n, ast.Call) and n.args)
            yield from ((node, p) for n in inner if (p := run_model(n)) and p.startswith("self."))


def _stays(module: Module, function: Function, place: str, switched: set[str]) -> bool:
    """Whether a model of its own is trained by the file, and put into evaluation mode nowhere in it."""
    name = place.rpartition(".")[2]
    if name == "self" or _NO_MODEL.search(name) or _is_tied(module, function, place, switched):
        return False
    off = (call for call in module.calls_of("eval", "train") if switches_off(call))
    if any(name in ast.unparse(call.func).split(".") for call in off):
        return False
    put = any(not switches_off(call) for call in mode_calls(module, "train", place))
    return put or _is_trained_beside(module, function, place, switched)


def _is_tied(module: Module, function: Function, place: str, switched: set[str]) -> bool:
    """Whether a model is one that is switched, under another name, or a part of one, or holds one."""
    names = same_models(module, function.body[0], {place, *switched})
    if any(names[place] == names[other] or place.startswith(f"{other}.") for other in switched):
        return True
    made, others = _made_of(module, function, place), {o: _made_of(module, function, o) for o in switched}
    return any(other in made or place in of or _share(made, of) for other, of in others.items())


def _made_of(module: Module, function: Function, place: str) -> set[str]:
    """Return the keys of what stands in the assignments to a model, in its class or its function."""
    cls = module.tree.class_of(function)
    if place.startswith("self.") and cls is not None:
        values = attributes(module, cls).get(place.removeprefix("self."), [])
    else:
        values = module.names.values(place, function.body[0]) if place.isidentifier() else []
    return {k for value in values for node in walk(value) if (k := key(node))}


def _share(made: set[str], of: set[str]) -> bool:
    """Whether one model was taken out of what the other was made of: `model.decoder`, of `model`."""
    return any(one.startswith(f"{o}.") and o != "self" for one in made for o in of if "model" in o or "net" in o)


def _is_trained_beside(module: Module, function: Function, place: str, switched: set[str]) -> bool:
    """Whether a method of the class that puts a switched model into training mode runs this one, a model too."""
    cls = module.tree.class_of(function)
    own = (c for c in module.calls_of(*_OF_MODULES) if key(receiver(c)) == place and module.tree.class_of(c) is cls)
    if cls is None or not place.startswith("self.") or next(own, None) is None:
        return False
    for method in (item for item in cls.body if isinstance(item, FUNCTIONS) and item is not function):
        put = {bare(receiver(c)) for c in mode_calls(module, "train") if module.tree.function(c) is method}
        if put & switched and any(held == place for _, held in _runs(module, method)):
            return True
    return False
