"""Where the scale of the loss is lost on its way: custom backward passes, and losses handed to a framework.

A `torch.autograd.Function` whose `backward` gives gradients that it kept, and never reads the one that comes in,
forgets every factor of the loss, the scaler's too. And a function that updates a scaler of its own class, whose
`self.context.backward(loss)` is given the plain loss.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk_scope

_SCALES = regex(r"GradScaler|\bscaler\.scale\(")
_OF_NOTHING = frozenset({"zeros_like", "zeros", "new_zeros"})


def dropping_functions(module: Module) -> Iterator[ast.Return]:
    """Walk the results of custom backward passes that read no incoming gradient, in projects that scale their loss."""
    if "ctx" not in module.text or not module.mentions(("custom_bwd", "GradScaler")) or module.role == "test":
        return  # what knows nothing of mixed precision may be made for losses that are never scaled
    for function in module.functions:
        if function.name != "backward" or not _is_custom(module, function):
            continue
        incoming = {a.arg for a in [*function.args.args[1:], function.args.vararg] if a is not None}
        names = [n for n in walk_scope(function) if isinstance(n, ast.Name)]
        if not incoming or any(n.id in incoming for n in names):
            continue
        returned = next((n for n in walk_scope(function) if isinstance(n, ast.Return) and _gives(n.value)), None)
        if returned is not None and _is_kept(function) and module.project.says(_SCALES, "caler"):
            yield returned


def _is_custom(module: Module, function: Function) -> bool:
    own = module.tree.class_of(function)
    bases = [(key(b) or "").rpartition(".")[2] for b in own.bases] if own is not None else []
    first = function.args.args[0].arg if function.args.args else ""
    return "Function" in bases and first in ("ctx", "context")


def _gives(value: ast.expr | None) -> bool:
    """Whether a result holds a gradient, computed or kept: not None, and not zeros."""
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    made = (p for p in parts if p is not None and not isinstance(p, ast.Constant))
    return any(not (isinstance(p, ast.Call) and called(p) in _OF_NOTHING) for p in made)


def _is_kept(function: Function) -> bool:
    """Whether a backward pass gives what the forward pass kept."""
    places = (n for n in walk_scope(function) if isinstance(n, ast.Attribute))
    return any(isinstance(n.value, ast.Name) and n.value.id in ("ctx", "context") for n in places)


def unscaled_for_a_framework(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the backward call, the update) of functions that update a scaler and scale no loss."""
    if "GradScaler" not in module.text:
        return
    for update in module.calls_of("update"):
        function = module.tree.function(update)
        if function is None or not is_scaler(module, receiver(update)):
            continue
        here = [c for c in module.calls_of("scale", "backward") if module.tree.function(c) is function]
        handed = [c for c in here if called(c) == "backward" and len(c.args) == 1 and isinstance(c.args[0], ast.Name)]
        stepped = (k for n in walk_scope(function) if isinstance(n, ast.Call) for k in n.keywords if k.arg == "scaler")
        if handed and len(handed) == len(here) and any(key(k.value) == key(receiver(update)) for k in stepped):
            yield handed[0], update
