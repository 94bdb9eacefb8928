"""What uses the gradients that a call of `torch.autograd.grad` returned: norms, means, powers, steps by hand."""

import ast
import re
from dataclasses import dataclass

from ampguard.auditing.flow.gradient_events import NORMS
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, argument, called, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._steps import callers

GRAD = "torch.autograd.grad"
_NORM = ("torch.norm", "torch.linalg.norm", "torch.linalg.vector_norm", "torch.abs", "torch.square", "torch.mean")
_DIVIDES = regex(r"get_scale|inv_?scale|unscal|_scale\b|[*/]=? ?\(?scale\b", re.IGNORECASE)
"""What a function says that divides by the scale itself."""

_STEPS = frozenset({"sub", "sub_"})
"""Methods by which parameters are moved by gradients without an optimizer."""

_ROUNDS = 3
"""Names from one to the next that are followed."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One measure of such gradients: where it shows, the call that took them, and whether it ends in a quotient.

    Both parts of a quotient carry the scale, which falls out of it but for what is added to them.
    """

    at: ast.AST
    taken: ast.Call
    quotient: bool


def is_scaled(module: Module, loss: ast.expr) -> bool:
    """Whether a loss is `scaler.scale(...)`, at once or by a name that is given it somewhere in its scope."""
    parts = loss.elts if isinstance(loss, ast.List | ast.Tuple) else [loss]
    values = [v for part in parts if isinstance(part, ast.Name) for v in module.names.values(part.id, part)]
    plain = [v for v in values if not isinstance(v, ast.Call) or called(v) == "scale"]  # others may divide it again
    return any(_scales(module, n) for value in (loss, *plain) for n in walk(value))


def _scales(module: Module, node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and called(node) == "scale" and is_scaler(module, receiver(node))


def measured(module: Module, function: Function, taken: ast.Call) -> Measured | None:
    """Return the first measure of gradients in a function that says nothing of the scale; callers may divide too."""
    if _DIVIDES.search(module.text_of(function)):
        return None
    held = _held(module, function, taken)
    measures = [n for n in walk_scope(function) if _is_measure(module, n, taken, held)]
    first = min(measures, key=lambda n: (n.lineno, n.col_offset), default=None)  # type: ignore[attr-defined]
    if first is None or any(_DIVIDES.search(ast.unparse(module.tree.statement(c))) for c in callers(module, function)):
        return None
    quotients = (n for n in walk_scope(function) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div))
    return Measured(first, taken, any(all(_mentions(s, taken, held) for s in (q.left, q.right)) for q in quotients))


def returns_gradients(module: Module, function: Function, taken: ast.Call) -> bool:
    """Whether a function hands the gradients on as they are."""
    held = _held(module, function, taken)
    returns = (n.value for n in walk_scope(function) if isinstance(n, ast.Return) and n.value is not None)
    return not _DIVIDES.search(module.text_of(function)) and any(_mentions(v, taken, held) for v in returns)


def _held(module: Module, function: Function, taken: ast.Call) -> set[str]:
    """Return the names of a function that hold such gradients, or what is made of them."""
    bound = [pair for node in walk_scope(function) for pair in _bound(node)]
    held: set[str] = set()
    for _ in range(_ROUNDS):
        for target, value in bound:
            if _mentions(value, taken, held) or _takes_too(module, value):
                held |= {n.id for n in walk(target) if isinstance(n, ast.Name)}
    return held


def _bound(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """Return the targets of an assignment or a loop, each with its value; of a `zip`, one by one."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if not isinstance(node, ast.For | ast.comprehension):
        return []
    zipped = isinstance(node.iter, ast.Call) and called(node.iter) == "zip" and isinstance(node.target, ast.Tuple)
    if zipped and len(node.target.elts) == len(node.iter.args):  # type: ignore[attr-defined]
        return list(zip(node.target.elts, node.iter.args, strict=True))  # type: ignore[attr-defined]
    return [(node.target, node.iter)]


def _takes_too(module: Module, value: ast.expr) -> bool:
    """Whether a value holds other gradients of a scaled loss."""
    calls = (n for n in walk(value) if isinstance(n, ast.Call) and called(n) == "grad")
    return any(
        module.names.stands_for(c.func, GRAD)
        and (loss := argument(c, 0, "outputs")) is not None
        and is_scaled(module, loss)
        for c in calls
    )


def _mentions(node: ast.AST, taken: ast.Call, held: set[str]) -> bool:
    return any(n is taken or (isinstance(n, ast.Name) and n.id in held) for n in walk(node))


def _is_measure(module: Module, node: ast.AST, taken: ast.Call, held: set[str]) -> bool:
    """Whether a node is a norm, mean, maximum or power of the gradients, or a step by them."""
    if isinstance(node, ast.BinOp):
        base, by = node.left, node.right
        if isinstance(node.op, ast.Pow):
            return _mentions(base, taken, held)
        return isinstance(node.op, ast.Sub) and _is_product(by, taken, held) and not _mentions(base, taken, held)
    if not isinstance(node, ast.Call):
        return False
    if module.names.stands_for(node.func, *_NORM):
        return bool(node.args) and _mentions(node.args[0], taken, held)
    owner = receiver(node)
    if owner is not None and called(node) in _STEPS and node.args:
        return ".grad" not in ast.unparse(owner) and _mentions(node.args[0], taken, held)
    if called(node) not in NORMS or owner is None or any(_is_product(n, taken, held) for n in walk(owner)):
        return False
    return _mentions(owner, taken, held)


def _is_product(node: ast.AST, taken: ast.Call, held: set[str]) -> bool:
    """Whether a node is a product of gradients and something else, as in `p - lr * g` or a product with a vector."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _mentions(node, taken, held)
