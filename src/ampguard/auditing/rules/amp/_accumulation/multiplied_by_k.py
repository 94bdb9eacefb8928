"""Losses that are multiplied by the number of micro-batches, where they were meant to be divided by it."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver
from ampguard.auditing.rules.amp._accumulation.loops import loss_given
from ampguard.auditing.rules.amp._steps import backward_calls, enclosing

_COUNT = regex(
    r"(n|num|number_of)_(grad(ient)?s?_)?(accum\w*|micro_?batch(es)?)"
    r"|(grad(ient)?s?_?)?accum(ulat\w*)?_?(grad(ient)?s?_?)?(steps?|iters?|iterations?|freq|every|batches|count)",
    re.IGNORECASE,
)
"""What the number itself is called, and not a factor made from it."""


def multiplied_losses(module: Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Walk (the product, the number) where a loss times the number of micro-batches is what goes backward."""
    if not module.mentions(("ccum", "icro")):
        return
    told: set[ast.AST] = set()
    for backward in backward_calls(module):
        around = enclosing(module, backward)
        for product, factor in _products(module, loss_given(module, backward)):
            if product in told or enclosing(module, product) is not around or product.lineno > backward.lineno:
                continue
            if _is_count(module, factor) and "/" not in ast.unparse(module.tree.statement(product)):
                told.add(product)
                yield product, factor


def _products(module: Module, loss: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Walk the products that a loss is, or was given by the function around it, with each factor."""
    for value in [loss, *(assigned(module, loss) if isinstance(loss, ast.Name) else [])]:
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
            yield value, value.right
            yield value, value.left
        elif isinstance(value, ast.Call) and called(value) in ("mul", "mul_") and value.args and receiver(value):
            yield value, value.args[0]


def _is_count(module: Module, node: ast.expr) -> bool:
    """Whether a factor is named as the number of micro-batches, or was given a value that is."""
    named = [v for v in assigned(module, node) if not isinstance(v, ast.Constant)]
    if any(not isinstance(v, ast.Name | ast.Attribute) for v in named):
        return False  # computed: an inverse, perhaps
    places = [key(v) or "" for v in (named or [node])]
    return all(_COUNT.fullmatch(place.rpartition(".")[2]) for place in places)
