"""What is told of answers, settings, items and layers that are None at times: the sources, and their messages."""

from collections.abc import Callable, Iterable, Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_answers import Answered, uses_of_answers
from ampguard.auditing.flow.optional_behind import uses_right_behind
from ampguard.auditing.flow.optional_exits import uses_in_exits
from ampguard.auditing.flow.optional_keys import uses_of_items_left_none
from ampguard.auditing.flow.optional_layers import (
    biases_beside_weights,
    biases_of_imported_layers,
    gradients_of_all,
    uses_under_vacuous_tests,
)
from ampguard.auditing.flow.optional_swapped import kept_as_none, uses_of_misses
from ampguard.auditing.reading.module import Module

_Message = Callable[[Module, Use], str]


def sure_uses(module: Module) -> Iterator[tuple[Use, str]]:
    """Walk what the code itself settles: what is kept where it is None, cache misses, tests that ask nothing."""
    for use in kept_as_none(module):
        yield use, f"{module.segment(use.node)} keeps `{use.place}` where line {_line(use)} has found it to be None"
    for use in uses_in_exits(module):
        yield (
            use,
            f"{module.segment(use.node)} needs `{use.place}`, which is None wherever the block ends without error",
        )
    for use in uses_right_behind(module):
        yield use, f"{module.segment(use.node)} is reached where line {_line(use)} has left `{use.place}` None"
    for use in uses_of_misses(module):
        text = f"{module.segment(use.node)} needs `{use.place}`, which line {_line(use)} may not find"
        yield use, f"{text}: it is stored further down"
    for use in uses_under_vacuous_tests(module):
        text = f"{module.segment(use.node)} needs `{use.place}`, and line {_line(use)} does not ask for it"
        yield use, f"{text}: the switch is True or False, never None"


def _line(use: Use) -> int:
    return getattr(use.origin, "lineno", 1)


def _of_answer(module: Module, use: Use) -> str:
    text = f"{module.segment(use.node)} needs `{use.place}`"
    if not isinstance(use, Answered):
        return text
    where = f"line {use.line}" if use.path == module.path else f"{use.path}:{use.line}"
    return f"{text}, which {use.function}() answers as None at times ({where})"


def _of_weights(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)}: the weight that line {_line(use)} asks for is there without a bias at times"


def _of_imported(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} is None for the layers that an imported file makes without a bias"


def _of_gradients(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} fails for a parameter that took no part in the loss: its gradient is None"


def _of_items(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} needs `{use.place}`, which another file sets to None at times"


GUESSES_OF_ANSWERS: tuple[tuple[Callable[[Module], Iterable[Use]], _Message], ...] = (
    (biases_beside_weights, _of_weights),
    (biases_of_imported_layers, _of_imported),
    (gradients_of_all, _of_gradients),
)

GUESSES_OF_PROJECTS: tuple[tuple[Callable[[Module], Iterable[Use]], _Message], ...] = (
    (uses_of_answers, _of_answer),
    (uses_of_items_left_none, _of_items),
)
"""What is known by the texts of all files."""
