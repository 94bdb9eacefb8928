"""Accumulations whose backward pass stands in a function of the project that only its name leads to.

`for x in pieces: loss.accumulate_gradients(x)` with the step behind the loop: the object is not known, but a function
of that name runs a backward pass, and divides by nothing that could be the number of pieces.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._accumulation.accumulates_by_name import divides

_GATHERS = regex(r"_*accum\w*_(grad\w*|loss|backward|step)|(backward|grads?|gradients?|loss)_accum\w*|_*accumulate")


def gathered_elsewhere(module: Module) -> Iterator[tuple[ast.Call, ast.For]]:
    """Walk the calls that gather the gradients of one piece, with the loop over the pieces."""
    for name in [name for name in module.calls if "accum" in name and _GATHERS.fullmatch(name)]:
        for call in module.calls[name]:
            loop = next(module.tree.loops(call), None)
            if isinstance(loop, ast.For) and _is_stepped_behind(module, loop) and not _divides(module, name):
                yield call, loop


def _is_stepped_behind(module: Module, loop: ast.For) -> bool:
    """Whether the gradients are cleared before a loop and stepped behind it, in one block."""
    around = module.tree.parents[loop]
    inside = [c for c in module.calls_of("step", "zero_grad") if module.tree.inside(c, loop)]
    cleared = any(c.lineno < loop.lineno and module.tree.inside(c, around) for c in module.calls_of("zero_grad"))
    steps = (c for c in module.calls_of("step") if c.lineno > (loop.end_lineno or 0))
    own = (c for c in steps if is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c)) or key(receiver(c)))
    return not inside and cleared and any(module.tree.inside(c, around) for c in own)


def _divides(module: Module, name: str) -> bool:
    """Whether a function of that name divides, or none of the project runs a backward pass."""
    places = [place for place, text in module.project.texts() if f"def {name}(" in text]
    sources = [source for place in places for source in _bodies(module.project.module(place), name)]
    return not any(".backward(" in text for text in sources) or divides(sources)


def _bodies(module: Module | None, name: str) -> Iterator[str]:
    """Walk the sources of the functions of that name in a file."""
    for function in module.functions if module is not None else ():
        if module is not None and function.name == name:
            yield module.text_of(function)
