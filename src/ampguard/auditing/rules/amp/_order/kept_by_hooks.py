"""Hooks that keep or measure the gradients of a layer's output while the backward pass of a scaled loss runs.

`unscale_` divides the gradients of parameters behind the backward pass; what a hook has taken meanwhile stays
multiplied by the loss scale, and values of two scales are mixed. Visualisations run a backward pass of their own.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import STATE_WORDS
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, walk
from ampguard.auditing.rules.amp._hooks import SCALES

_ON_LAYERS = ("register_full_backward_hook", "register_backward_hook", "register_full_backward_pre_hook")
_KNOWS = regex(r"get_scale|loss_scale|grad_scale|inv_scale|unscale|scaler\b", re.IGNORECASE)
_OWN_PASS = regex(r"(?<!\))\.backward\(|autograd\.grad\(")
"""A backward pass of no `scale(...)`: whose gradients a hook of the file sees is not known."""

_LOOKS_AT = regex(r"cam\b|gradcam|salien|attribut|explain|visual|interpret|relevance|lrp\b", re.IGNORECASE)
_MAPS = regex(r"attn_?map|attention_?map|_cam\b|relprop|salien", re.IGNORECASE)
"""What else a layer keeps that shows what it looks at, for a backward pass that no step follows."""

_COLLECTS = regex(r"append|extend|add|update|save|store|record|log|push|put|write|collect|accum|observe|track")
"""Calls that keep or show what they are given."""

_GRADIENT = regex(r"grad_out(put)?s?|grads?_outputs?|output_grads?|grad_in(put)?s?")
_WORDS = ("backward_hook",)


def kept_by_hooks(module: Module) -> Iterator[ast.AST]:
    """Walk what hooks do with the gradients that they are given, in projects that scale their loss."""
    if module.role != "library" or not module.mentions(("register_", "grad_out", "grad_in", "output_grad")):
        return
    if _OWN_PASS.search(module.text) or _LOOKS_AT.search(module.path):
        return
    hooks = [*_registered(module), *_handed_on(module)]
    told: set[Function | None] = set()
    for hook, gradients in hooks if hooks and module.project.says(SCALES, *STATE_WORDS) else ():
        owner = module.tree.class_of(hook)
        around = module.text_of(owner or hook)
        shows = _MAPS.search(around) or (owner is not None and _LOOKS_AT.search(owner.name))
        if not shows and _KNOWS.search(around) is None:
            use = _keeps(hook, gradients)
            if use is not None and module.tree.function(use) not in told:
                told.add(module.tree.function(use))
                yield use


def _registered(module: Module) -> Iterator[tuple[Function | ast.Lambda, set[str]]]:
    """Walk the hooks that the file registers, with the names of the gradients that they are given."""
    for call in module.calls_of(*_ON_LAYERS, "register_hook"):
        hook = _hook(module, call.args[0]) if call.args else None
        if hook is not None:
            names = [arg.arg for arg, _ in parameters(hook) if arg.arg not in ("self", "cls")]
            yield hook, set(names[-2:] if called(call) in _ON_LAYERS else names[-1:])


def _hook(module: Module, given: ast.expr) -> Function | ast.Lambda | None:
    """Return the function that is registered: a lambda, a function of the file, a method of the same class."""
    if isinstance(given, ast.Lambda):
        return given
    if isinstance(given, ast.Name):
        found = module.names.lookup(given.id, given)
        node = found[1][-1].node if found is not None else None
        return node if isinstance(node, FUNCTIONS) else None
    owner, name = module.tree.class_of(given), (key(given) or "").removeprefix("self.")
    own = (f for f in owner.body if isinstance(f, FUNCTIONS) and f.name == name) if owner is not None else ()
    return next(iter(own), None)


def _keeps(hook: Function | ast.Lambda, gradients: set[str]) -> ast.AST | None:
    """Return where a hook stores the gradient that it is given, or hands it to what may; None where it only returns."""
    if isinstance(hook, ast.Lambda):
        return hook.body if _collects(hook.body, gradients) else None
    for node in walk(hook):
        if isinstance(node, ast.Expr) and _collects(node.value, gradients):
            return node
        kept = ast.Attribute | ast.Subscript
        stores = isinstance(node, ast.Assign) and any(isinstance(t, kept) for t in node.targets)
        if stores and _speaks(node.value, gradients):  # type: ignore[attr-defined]
            return node
    return None


def _collects(node: ast.expr, gradients: set[str]) -> bool:
    if not isinstance(node, ast.Call) or not _COLLECTS.search(called(node).lower()):
        return False
    return any(_speaks(value, gradients) for value in node.args)


def _speaks(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in walk(node))


def _handed_on(module: Module) -> Iterator[tuple[Function, set[str]]]:
    """Walk the methods that are called with the gradient of an output in another file that registers such hooks."""
    for function in module.functions:
        own = parameters(function) if _COLLECTS.search(function.name) else []
        given = {arg.arg for arg, _ in own if _GRADIENT.fullmatch(arg.arg)}
        call = re.compile(rf"\.{function.name}\(\s*{_GRADIENT.pattern}\b") if given else None
        texts = module.project.texts(*_WORDS) if call is not None else ()
        if call is not None and any(call.search(text) for name, text in texts if name != module.path):
            yield function, given
