"""Parts of a model that the training step runs with autocast switched off, and the evaluation step under it.

Whoever keeps a part out of half precision (T5 encoders overflow there) has to do so wherever the whole model is run.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import region_around, truth
from ampguard.auditing.reading.tree import Function, argument, called, key, walk

_EVALUATES = regex(r"(^|_)(eval|evaluate|evaluation|valid|validate|validation|val)(_|$)")
_TRAINS = regex(r"(^|_)train(ing)?(_|$)")


class KeptOut(NamedTuple):
    """A part of a model that is run in full precision where it trains."""

    part: ast.Call
    model: str
    function: Function
    by_framework: bool
    """Whether a framework puts the whole model under autocast, so that no region shows it."""


def kept_out_in_training_alone(module: Module) -> Iterator[tuple[ast.Call, KeptOut]]:
    """Walk (the whole model's call where it is judged, the part that is kept out where it trains)."""
    if not module.mentions(("autocast(",)) or module.role == "test":
        return
    told: set[Function] = set()
    for kept in _kept_out(module):
        name = called(kept.part)
        for call in _whole_calls(module, kept):
            judged = module.tree.function(call)
            if judged is None or judged is kept.function or judged in told or not _EVALUATES.search(judged.name):
                continue
            text = module.text_of(judged)
            region = region_around(module, call)
            on = kept.by_framework if region is None else region.enabled is not False
            if on and name not in text and not ("autocast" in text and region is None):
                told.add(judged)
                yield call, kept


def _kept_out(module: Module) -> Iterator[KeptOut]:
    """Walk the parts that training functions run with autocast off, beside the whole model."""
    for block in module.tree.all(ast.With):
        function = module.tree.function(block)
        if function is None or not _TRAINS.search(function.name):
            continue
        opened = [i.context_expr for i in block.items if isinstance(i.context_expr, ast.Call)]
        off = [call for call in opened if called(call) == "autocast" and _is_off(module, call)]
        for call in (n for s in block.body for n in walk(s) if off and isinstance(n, ast.Call)):
            model, _, name = (key(call.func) or "").rpartition(".")
            model = model.removesuffix(".module")
            kept = KeptOut(call, model, function, argument(off[0], None, "autocast_handler") is not None)
            if name and model not in ("", "self", "torch", "F") and _runs_whole(module, kept, block):
                yield kept


def _is_off(module: Module, call: ast.Call) -> bool:
    """Whether an autocast is off: by its own argument, or by the settings of Accelerate's that it is given."""
    if truth(module, argument(call, None, "enabled")) is False and argument(call, None, "enabled") is not None:
        return True
    handler = argument(call, None, "autocast_handler")
    word = (key(handler) or "").rpartition(".")[2] if handler is not None else ""
    for made in module.calls.get("AutocastKwargs", ()) if word else ():
        statement = module.tree.statement(made)
        places = statement.targets if isinstance(statement, ast.Assign) else []
        named = made is handler or any((key(place) or "").rpartition(".")[2] == word for place in places)
        if named and truth(module, argument(made, None, "enabled")) is False:
            return True
    return False


def _whole_calls(module: Module, kept: KeptOut) -> list[ast.Call]:
    last = kept.model.rpartition(".")[2]
    return [c for c in module.calls.get(last, ()) if key(c.func) == kept.model]


def _runs_whole(module: Module, kept: KeptOut, block: ast.With) -> bool:
    """Whether the function of a part that is kept out runs the whole model behind it, under autocast."""
    calls = [c for c in _whole_calls(module, kept) if module.tree.function(c) is kept.function]
    behind = [c for c in calls if c.lineno > (block.end_lineno or block.lineno)]
    return any(kept.by_framework or region_around(module, c) is not None for c in behind)
