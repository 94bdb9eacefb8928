"""Accumulations that only their words tell: a step every k-th time in one method, the backward pass in another.

Where a class steps every k-th time, k is named as a number of micro-batches, and no line of it divides by anything so
named, the gradients are the sum over k batches, wherever the loss comes from.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import receiver

_NO_K = r"(?![\w.]*(actor|target|critic|policy))"
_K = _NO_K + r"[\w.\[\]'\"]*(?:accum|micro_?batch|update_freq|update_interval|iter_size)\w*"
_EVERY_KTH = re.compile(rf"(?:%=?\s*\(?|\brange\(\s*)(?P<k>{_K})", re.IGNORECASE)
_DIVIDES = re.compile(
    rf"(?<!/)/(?!/)\s*=?\s*(max\(|float\(|int\(|len\()*\(?[^\n]{{0,12}}?{_K}|\.(true_)?div(ide)?_?\([^\n]*{_K}",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"len\(.*/|ceil|floor|steps_per|_steps\s*=|print|\.info\(", re.IGNORECASE)
_OTHERWISE = re.compile(
    r"num_items|_tokens\b|normali[sz]e_loss|reduction=.sum|grad(ient)?s?_?(scale|multi|norm_factor)|batch_multiplier"
    r"|loss_?(scale_factor|weight|factor)|accelerat|deepspeed|\bself\.fabric|inv_|/\s*(n|num|total|count)\w*\b",
    re.IGNORECASE,
)


def named_accumulations(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk the first backward pass of each such class, with k and the name of the class."""
    told: set[ast.AST] = set()
    for backward in module.calls_of("backward"):
        owner = module.tree.class_of(backward)
        if owner is None or owner in told:
            continue
        told.add(owner)
        text = _code(module, owner)
        every = _EVERY_KTH.search(text)
        if every is None or _OTHERWISE.search(text) or not _steps(module, owner):
            continue
        if all(_COUNTS.search(line) for line in text.split("\n") if _DIVIDES.search(line)):
            yield backward, every["k"], owner.name


def _steps(module: Module, owner: ast.AST) -> bool:
    steps = (c for c in module.calls_of("step") if module.tree.inside(c, owner))
    return any(is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c)) for c in steps)


def _code(module: Module, owner: ast.ClassDef) -> str:
    """Return the lines of a class without comments."""
    return "\n".join(line.partition("#")[0] for line in module.lines[owner.lineno - 1 : owner.end_lineno])
