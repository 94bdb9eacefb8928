"""Which calls compute a loss, and which of them add up the losses of a batch."""

import ast

from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, walk

_MODELS = (
    *("model", "net", "network", "forward", "criterion", "crit"),
    *("loss_fn", "loss_fct", "loss_func", "loss_function", "compute_loss"),
)
_LOSSES = ("_model", "criterion", "_crit", "_loss", "loss_fn", "loss_fct", "_net")


def reduces_to_sum(node: ast.AST) -> bool:
    """Whether a call in an expression is told to add up its losses."""
    return any(
        k.arg == "reduction" and isinstance(k.value, ast.Constant) and k.value.value == "sum"
        for at in walk(node)
        if isinstance(at, ast.Call)
        for k in at.keywords
    )


def sums(module: Module, func: ast.expr) -> bool:
    """Whether a loss function is made to add up its losses."""
    values = module.names.values(func.id, func) if isinstance(func, ast.Name) else []
    return any(reduces_to_sum(value) for value in values)


def computes_a_loss(module: Module, node: ast.Call) -> bool:
    """Whether a call is the model or a loss function, which know nothing of the accumulation."""
    name = called(node).lower()
    made = [value.func for value in assigned(module, node.func) if isinstance(value, ast.Call)]
    known = any(d.startswith("torch.") for func in (node.func, *made) for d in module.names.dotted(func))
    return known or name in _MODELS or name.endswith(_LOSSES)
