"""What NON001 tells by names and habits: the sources, each with its message, in the order in which they are asked."""

import ast
from collections.abc import Callable, Iterable, Iterator

from ampguard.auditing.flow.nullness_uses import uses_of_nones, uses_of_what_is_left
from ampguard.auditing.flow.optional import Use, is_thing
from ampguard.auditing.flow.optional_answered import uses_of_what_is_asked_elsewhere
from ampguard.auditing.flow.optional_asked_beside import uses_beside_a_question
from ampguard.auditing.flow.optional_asked_later import uses_of_what_is_asked_later
from ampguard.auditing.flow.optional_attributes import uses_of_attributes
from ampguard.auditing.flow.optional_declared import uses_of_what_is_declared_none
from ampguard.auditing.flow.optional_doubted import uses_of_doubted_attributes
from ampguard.auditing.flow.optional_each_arm import uses_on_each_side
from ampguard.auditing.flow.optional_elsewhere import uses_of_a_trainers_logger, uses_of_what_a_maker_left_out
from ampguard.auditing.flow.optional_fallback import uses_of_doubtful_fallbacks
from ampguard.auditing.flow.optional_handed_back import uses_of_what_was_handed_back
from ampguard.auditing.flow.optional_has_attribute import uses_behind_hasattr
from ampguard.auditing.flow.optional_kept import uses_of_what_init_keeps
from ampguard.auditing.flow.optional_of_objects import uses_of_what_objects_leave_out
from ampguard.auditing.flow.optional_one_armed import one_armed
from ampguard.auditing.flow.optional_options import uses_of_options_left_out
from ampguard.auditing.flow.optional_ordered import sums_of_what_may_be_none
from ampguard.auditing.flow.optional_packages import uses_of_missing_packages
from ampguard.auditing.flow.optional_passed_on import uses_of_what_is_passed_on
from ampguard.auditing.flow.optional_plain import plain_uses
from ampguard.auditing.flow.optional_same_call import uses_of_the_same_answer
from ampguard.auditing.flow.optional_scripts import uses_of_settings_of_other_scripts
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.optional._answered import GUESSES_OF_ANSWERS, GUESSES_OF_PROJECTS

_Source = Callable[[Module], Iterable[Use]]
_Message = Callable[[Module, Use], str]
Guess = tuple[_Source, _Message]


def _says(text: str) -> _Message:
    """Return what fills a text in: {it}, what is reached; {place}, what may be None; {line}, where that comes from."""
    return lambda module, use: text.format(
        it=module.segment(use.node), place=use.place, line=getattr(use.origin, "lineno", 1)
    )


reached = _says("{it} is reached where `{place}` is None (line {line})")
_perhaps = _says("{it} is reached where `{place}` may be None")
_left = _says("{it} needs `{place}`, which line {line} leaves None on some way here")
_kept = _says("{it} needs `{place}`, which may be None as __init__ ends (line {line})")
_given = _says("{it} needs `{place}`, a parameter that may be None (line {line}), on a way on which nothing has asked")
_looked_up = _says("{it} needs `{place}`, and what line {line} looks up may not be there")
_unasked = _says("{it} needs `{place}`, which line {line} leaves None, and nothing here asks")
_doubted = _says("{it} needs `{place}`, which this class takes to be None at times")
_asked_elsewhere = _says("{it} needs `{place}`, which this function takes to be None at times")
_asked_later = _says("{it} needs `{place}`, and only line {line} asks whether it is None")
_there_but_none = _says("{it} needs `{place}`, which is always there, and None at times (line {line})")
_fallen_back = _says("{it} needs `{place}`, and what line {line} gives it may be None as well")
_option = _says("`{place}` is needed, and None where the option of line {line} is not given")
_passed_on = _says("{it} needs `{place}`, which is None by default, and is asked about where it goes")
_set_by_some = _says("`{place}` is set by some of the scripts that run this, and missing in the others")


def _left_by(module: Module, use: Use) -> str:
    """Return the message on what a reading in order finds, by what leaves it None."""
    if use.place.startswith("self."):
        return _kept(module, use)
    if isinstance(use.origin, ast.arg):
        return _given(module, use)
    return (_looked_up if isinstance(use.origin, ast.Call) else _left)(module, use)


def _one_sided(module: Module) -> Iterator[Use]:
    """Walk the things that one side of a test gives an object, but for the tests for CUDA, which AMP030 tells."""
    for found in (
        one_armed(module) if module.mentions(("scaler", "sched", "writer", "logger", "tracker", "ema")) else ()
    ):
        if is_thing(found.name) and not found.asks_for_cuda:
            yield Use(f"self.{found.name}", found.use, found.arm)


_missing = _says("{it} is reached where line {line} has given no `{place}`")
_handed_back = _says("{it} needs `{place}`, which the function called in line {line} may leave None")
_same_answer = _says("{it} needs `{place}`, and line {line} asks whether that is None")


GUESSES: tuple[Guess, ...] = (
    (uses_of_what_a_maker_left_out, _perhaps),
    (uses_of_a_trainers_logger, _perhaps),
    (uses_of_what_is_left, _left_by),
    (plain_uses, _unasked),
    (uses_of_attributes, _unasked),
    (uses_of_missing_packages, _unasked),
    (uses_of_doubted_attributes, _doubted),
    *GUESSES_OF_ANSWERS,
    (uses_behind_hasattr, _there_but_none),
    (uses_of_doubtful_fallbacks, _fallen_back),
    (uses_of_options_left_out, _option),
    (uses_of_what_objects_leave_out, _perhaps),
    (uses_of_the_same_answer, _same_answer),
)
"""In this order; from the third on in code of one's own alone, not in tests and benchmarks.

In a library of many files, whose parameters are None by contract, only where something is trained or started.
"""

OF_ONE_PROJECT: tuple[Guess, ...] = ((uses_of_nones, _left_by),)
"""As wide, and not asked in a library of many files, whose parameters are None by contract: one of two is given."""

WIDE: tuple[Guess, ...] = (
    (uses_of_what_is_asked_elsewhere, _asked_elsewhere),
    (uses_of_settings_of_other_scripts, _set_by_some),
    (uses_of_what_was_handed_back, _handed_back),
    (_one_sided, _missing),
    (uses_of_what_is_asked_later, _asked_later),
    (uses_of_what_init_keeps, _unasked),
    (sums_of_what_may_be_none, _unasked),
    (uses_of_what_is_declared_none, _doubted),
)
"""Of names of any kind: asked in files that train, judge, log or are started, where a run ends by it."""

COSTLY: tuple[Guess, ...] = (
    (uses_of_what_is_passed_on, _passed_on),
    (uses_beside_a_question, _asked_elsewhere),
    (uses_on_each_side, _unasked),
    *GUESSES_OF_PROJECTS,
)
"""Asked in files that train, load data or are started: over a library they would take as long as parsing it."""

OF_A_RUN = (
    *("backward(", "optimizer", "no_grad", "scaler", "scheduler", "epoch", "ataloader", "DataLoader"),
    *("wandb", "writer", "ightning", "ccelerat", "add_argument(", "training_step", "(Trainer)"),
)

OF_A_START = (
    "backward(",
    "epoch",
    "ataloader",
    "DataLoader",
    "wandb",
    "writer",
    "ightning",
    "ccelerat",
    "add_argument(",
)
"""Words of files that train, load data or are started, and not of networks."""

MANY_FILES = 1000
"""Files of a project from which on names of functions and items are taken to mean several things."""
