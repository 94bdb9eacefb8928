"""Whether a loss is divided by k on its way to the backward pass, or comes from what cannot be seen into."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._accumulation.loops import names_k
from ampguard.auditing.rules.amp._accumulation.loss_calls import computes_a_loss, reduces_to_sum, sums
from ampguard.auditing.rules.amp._accumulation.too_late import comes_too_late
from ampguard.auditing.rules.amp._steps import arms

WEIGHT = regex(r"weight|lambda|lmbda|alpha|beta|gamma|coef|^w(_|\d|$)", re.IGNORECASE)
"""Names of what weighs one loss against others."""

_FACTOR = regex(r"scale|accum|factor|norm|div|inv|step|batch|num|count|ratio|grad|micro|world|size|loss", re.I)
_PROCESSES = regex(r"world_?size|n_?procs|num_processes|n_?gpus?$|num_gpus?$", re.IGNORECASE)
_BOTH = 2
_OVER_PROCESSES = regex(r"(all_?)?reduce(_(mean|avg|average|loss|tensor|value|scalar))?$", re.IGNORECASE)
"""Functions that return the mean of a loss over the processes."""

DIVIDES = frozenset({"div", "div_", "true_divide", "mul", "mul_", "multiply", "divide"})
_PASSES_ON = frozenset(
    {"mean", "float", "to", "squeeze", "contiguous", "double", "half", "reshape", "view", "cast", "values", "items"}
)


def divided_on_its_way(module: Module, loss: ast.expr, count: ast.expr) -> bool:
    """Whether a loss is divided before its backward pass, as far as can be seen; what cannot be counts as divided."""
    return _scaled(module, loss, count, frozenset())


def _scaled(module: Module, node: ast.expr, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    """Whether a loss is divided on its way, or comes from something that cannot be seen into.

    `seen` holds the scopes' bindings and functions that the way has passed already.
    """
    if isinstance(node, ast.BinOp):
        return _scaled_term(module, node, count, seen)
    if isinstance(node, ast.Call):
        return _scaled_call(module, node, count, seen)
    if isinstance(node, ast.Name):
        return _scaled_name(module, node, count, seen)
    if isinstance(node, ast.Attribute) and node.attr == "loss" and _is_output(module, node.value, count):
        return False
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Call | ast.Name):
        return _scaled(module, node.value, count, seen)
    parts = _parts(node)
    return parts is None or any(_scaled(module, part, count, seen) for part in parts)


def _parts(node: ast.expr) -> list[ast.expr] | None:
    """Return what a value is one of, or is made of, with no factor of its own: both arms, `-loss`, a comprehension."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.UnaryOp):
        return [node.operand] if isinstance(node.op, ast.USub | ast.UAdd) else None
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return [node.elt]
    if isinstance(node, ast.DictComp):
        return [node.value]
    if isinstance(node, ast.List | ast.Tuple):
        return list(node.elts) or None
    return None


def _is_output(module: Module, node: ast.expr, count: ast.expr) -> bool:
    """Whether a name holds what a part of the object returned that was told nothing of k: `out = self.ops(batch)`."""
    values = module.names.values(node.id, node) if isinstance(node, ast.Name) else [node]
    last = values[-1] if values else None
    if not isinstance(last, ast.Call) or names_k(last, count):
        return False
    place = target(module, last)
    if place is not None and names_k(place[1], count):
        return False
    return (key(last.func) or "").startswith("self.")


def _scaled_term(module: Module, node: ast.BinOp, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    sides = [side for side in (node.left, node.right) if not isinstance(side, ast.Constant)]
    if isinstance(node.op, ast.Mult):
        if names_k(node, count):
            return True
        sides = [side for side in sides if not _coefficient(side)]
    elif isinstance(node.op, ast.Add | ast.Sub):
        own = [side for side in sides if not _is_again(module, side, seen)]
        return bool(own) and all(_scaled(module, side, count, seen) for side in own)  # one part that is not is enough
    elif isinstance(node.op, ast.Div) and _of_something_else(node):
        return _scaled(module, node.left, count, seen)
    else:
        return True
    return any(_scaled(module, side, count, seen) for side in sides)


def _of_something_else(node: ast.BinOp) -> bool:
    """Whether a division is the mean of two losses, or that of the processes."""
    if isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Add):
        return isinstance(node.right, ast.Constant) and node.right.value == _BOTH
    return bool(_PROCESSES.search((key(node.right) or "").rpartition(".")[2]))


def _is_again(module: Module, node: ast.expr, seen: frozenset[ast.AST]) -> bool:
    """Whether a part of a sum is what the sum is added to: `loss` in `loss = loss + other`."""
    bound = module.names.lookup(node.id, node) if isinstance(node, ast.Name) else None
    return bound is not None and any(binding.node in seen for binding in bound[1])


def _coefficient(node: ast.expr) -> bool:
    """Whether a factor weighs one loss against others: named so, or a setting that is named for no division."""
    node = node.value if isinstance(node, ast.Subscript) else node
    word = (key(node) or "").split(".")[-1]
    return bool(WEIGHT.search(word)) or (isinstance(node, ast.Attribute) and bool(word) and not _FACTOR.search(word))


def _scaled_name(module: Module, node: ast.Name, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    bound = module.names.lookup(node.id, node)
    if bound is None or any(b.kind in ("parameter", "with", "import") for b in bound[1]):
        return True
    if any(b.kind == "loop" and not isinstance(b.node, ast.comprehension) for b in bound[1]):
        return True
    for binding in bound[1]:
        if binding.node in seen or isinstance(binding.value, ast.Constant) or binding.value is None:
            continue
        if arms(module, binding.node, node):
            continue  # what the other branch does to its own loss
        if comes_too_late(module, binding.node, node):
            continue
        if isinstance(binding.node, ast.AugAssign) and not isinstance(binding.node.op, ast.Add | ast.Sub):
            return True
        if _scaled(module, binding.value, count, seen | {binding.node}):
            return True
    return False


def _scaled_call(module: Module, node: ast.Call, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    name, owner = called(node), receiver(node)
    if name == "sum" and owner is None and len(node.args) == 1 and not names_k(node, count):
        return _scaled(module, node.args[0], count, seen)  # Python's own, which adds up the losses of one batch
    if name in DIVIDES or name == "sum" or names_k(node, count) or reduces_to_sum(node):
        return True
    if name in _PASSES_ON and owner is not None and key(owner) != "torch":
        return _scaled(module, owner, count, seen)
    if sums(module, node.func):
        return True
    if _OVER_PROCESSES.match(name) and node.args:
        return _scaled(module, node.args[0], count, seen)
    place = target(module, node)
    if place is None:
        return not computes_a_loss(module, node)
    where, function = place
    if function in seen:
        return False
    if names_k(function, count):
        return True
    returned = [at.value for at in walk_scope(function) if isinstance(at, ast.Return) and at.value is not None]
    return any(_scaled_result(where, value, count, seen | {function}) for value in returned)


def _scaled_result(module: Module, value: ast.expr, count: ast.expr, seen: frozenset[ast.AST]) -> bool:
    """Whether a function's result is divided; of several values any may be the loss."""
    if isinstance(value, ast.Tuple):
        return any(isinstance(at, ast.BinOp) and isinstance(at.op, ast.Div) for at in walk(value))
    return _scaled(module, value, count, seen)
