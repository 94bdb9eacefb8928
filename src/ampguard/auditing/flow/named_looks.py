"""Calls that are named to change or to measure the gradients of the model that they are given.

A function that can be found is looked into; of one that cannot, only its name tells.
"""

import ast
import re
from collections.abc import Callable, Iterator

from ampguard.auditing.flow.added_gradients import added_to
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key

_REGULARIZES = regex(
    r"_*((add|apply|do)_)?((\w+_)?regulari[sz](e|er|e_grads?|e_gradients)|sparsity_regulari[sz]ation"
    r"|(grad|gradient)_?(noise|penalty|decay)|add_(grad|gradient)_?noise|penali[sz]e)_*",
    re.IGNORECASE,
)
"""What a function is called that adds to gradients behind the backward pass."""

_MEASURES = regex(
    r"_*(get|compute|calc|calculate|log|plot|print|record|report|monitor|measure|track|show|total|global)?_?(total_|global_)?"
    r"grad(ient)?s?_?(l2_?)?(norms?|flow|stats?|statistics|hist|histograms?|magnitudes?|rms)_*",
    re.IGNORECASE,
)
"""What a function is called that measures gradients."""

_MODEL = regex(r"model|net|network|module|generator|encoder|backbone|parameters|params", re.IGNORECASE)
_SCALE = regex(r"scale", re.IGNORECASE)


def named_as_adding(module: Module) -> Iterator[tuple[ast.Call, bool]]:
    """Walk the calls of regularizers with nothing made of their answer, and whether it is certain that they add."""
    if not module.mentions(("egulari", "enali", "noise", "decay")):
        return
    for call in _calls(module, _REGULARIZES):
        if isinstance(module.tree.parents[call], ast.Expr):
            place = target(module, call)
            if place is None or any(place[0].tree.inside(s, place[1]) for s in added_to(place[0])):
                yield call, place is not None


def named_as_measuring(
    module: Module, words: tuple[str, ...], reads: Callable[[Module], list[ast.AST]]
) -> Iterator[tuple[ast.Call, bool]]:
    """Walk the calls that measure gradients in files that are not seen through, and whether that is certain.

    Args:
        module: The file.
        words: What the files hold that are seen through.
        reads: Returns the measures of a file.
    """
    if not module.mentions(("grad",)):
        return
    for call in _calls(module, _MEASURES):
        place = target(module, call)
        if place is None:
            yield call, False
        elif not place[0].mentions(words) and any(place[0].tree.inside(read, place[1]) for read in reads(place[0])):
            yield call, True


def _calls(module: Module, names: re.Pattern[str]) -> Iterator[ast.Call]:
    """Walk the calls of such names that are given the model or its parameters, and no scale."""
    for name, calls in module.calls.items():
        for call in calls if names.fullmatch(name) else ():
            if call.args and _is_model(call.args[0]) and not _SCALE.search(ast.unparse(call)):
                yield call


def _is_model(node: ast.expr) -> bool:
    last = node.func if isinstance(node, ast.Call) else node
    return bool(_MODEL.search((key(last) or "").rpartition(".")[2]))
