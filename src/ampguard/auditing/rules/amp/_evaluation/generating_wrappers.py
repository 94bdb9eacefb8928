"""Networks whose `forward` does nothing but let the networks that they are handed generate: nothing is trained by it.

`Pipeline.forward` calls `self.coarse.generate(text)`, and the class of `self.coarse`, whose own `forward` gives its
loss, picks what it generates by `argmax` or by drawing, through which no gradient goes.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, definition, method
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, OFF, source

_HANDS_ON = regex(r"\.(generate|sample)\(")
_GENERATES = regex(r"generate|sample")
_PICKS = regex(r"argmax|multinomial|gumbel_sample|[cC]ategorical|topk\(")
_TRAINS = regex(r"loss|criterion|optim|\.training\b|reward")
_SAYS_MODE = regex(r"\.eval\(|\.train\(|def train\b|\.training\b|eval_mode\b|set_mode")


def generated_with_gradients(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the call, what is wrong) of such wrappers that switch gradients off nowhere."""
    for cls, call, function in _wrappers(module):
        if not OFF.search(source(module, function)) and not _is_made_beside(module, cls, ("no_grad", "inference_mode")):
            yield call, f"{cls.name}.forward() only generates, and records what no gradient goes through"


def generated_in_any_mode(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk (the call, what is wrong, the fix) of such wrappers that choose no mode for what they hold."""
    for cls, call, _ in _wrappers(module):
        if not _SAYS_MODE.search(module.text_of(cls)) and not _is_made_beside(module, cls, (".eval()",)):
            place = key(receiver(call)) or ""
            message = f"{cls.name}.forward() only generates, by {place}, in the mode that its training left it in"
            yield call, message, f"Call {place}.eval() where it is kept."


def _wrappers(module: Module) -> list[tuple[ast.ClassDef, ast.Call, Function]]:
    """Return (the class, its first call that generates, the method that does)."""
    if not module.mentions((".generate(", ".sample(")) or not module.mentions(("loss",)):
        return []
    return module.once("generating wrappers", lambda: list(_found(module)))


def _found(module: Module) -> Iterator[tuple[ast.ClassDef, ast.Call, Function]]:
    for cls in module.tree.all(ast.ClassDef):
        forward = _method(cls, "forward")
        if forward is None or not _HANDS_ON.search(module.text_of(forward)):
            continue
        calls = _calls_of_parts(forward)
        if not calls or not all(_generates(call) for call in calls):
            continue
        text = source(module, forward)
        if OFF.search(text) or NEEDS.search(text) or _TRAINS.search(text) or not is_network(module, cls):
            continue
        generator = _generator(module, cls, calls[0])
        if generator is not None and _gives_what_it_picks(module, generator):
            yield cls, calls[0], generator


def _generator(module: Module, cls: ast.ClassDef, call: ast.Call) -> Function | None:
    """Return the method of this file that a call runs, by the annotation of the parameter that its object was."""
    made = _method(cls, "__init__")
    kept = attributes(module, cls).get((key(receiver(call)) or "").removeprefix("self."), [])
    if made is None or len(kept) != 1:
        return None
    value: ast.expr | None = kept[0]
    while isinstance(value, ast.Call):  # `coarse.eval()` and the like
        value = receiver(value)
    marked = next((arg.annotation for arg, _ in parameters(made) if arg.arg == key(value)), None)
    found = definition(module, marked) if marked is not None else None
    if found is None or found[0] is not module or not isinstance(found[1], ast.ClassDef):
        return None
    place = method(module, found[1], called(call))
    return place[1] if place is not None and place[0] is module else None


def _calls_of_parts(forward: Function) -> list[ast.Call]:
    """Return the calls in a method of its object's parts and methods, in the order of the lines."""
    inner = (n for n in walk_scope(forward) if isinstance(n, ast.Call))
    return sorted((c for c in inner if (key(c.func) or "").startswith("self.")), key=lambda c: c.lineno)


def _generates(call: ast.Call) -> bool:
    return _GENERATES.fullmatch(called(call)) is not None and (key(receiver(call)) or "").startswith("self.")


def _gives_what_it_picks(module: Module, function: Function) -> bool:
    """Whether a method picks tokens, in a network whose own `forward` gives a loss."""
    cls = module.tree.class_of(function)
    forward = _method(cls, "forward") if cls is not None else None
    if forward is None or "loss" not in source(module, forward):
        return False
    text = source(module, function)
    return _PICKS.search(text) is not None and not NEEDS.search(text) and "loss" not in text


def _method(cls: ast.ClassDef, name: str) -> Function | None:
    return next((f for f in cls.body if isinstance(f, FUNCTIONS) and f.name == name), None)


def _is_made_beside(module: Module, cls: ast.ClassDef, words: tuple[str, ...]) -> bool:
    """Whether another file that makes an object of a class holds one of the words."""
    made = (text for path, text in module.project.texts(f"{cls.name}(") if path != module.path)
    return any(word in text for text in made for word in words)
