"""Use of a scaler, logger, run or scheduler that may be None."""

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.optional import Use, is_thing, unguarded_uses
from ampguard.auditing.flow.optional_answered import uses_of_what_is_asked_elsewhere
from ampguard.auditing.flow.optional_asked_later import uses_of_what_is_asked_later
from ampguard.auditing.flow.optional_attributes import uses_of_attributes
from ampguard.auditing.flow.optional_bias import missing_biases
from ampguard.auditing.flow.optional_conjunction import uses_of_half_given
from ampguard.auditing.flow.optional_doubted import uses_of_doubted_attributes
from ampguard.auditing.flow.optional_elsewhere import (
    uses_of_a_trainers_logger,
    uses_of_doubted_arguments,
    uses_of_what_a_maker_left_out,
)
from ampguard.auditing.flow.optional_fallback import uses_of_doubtful_fallbacks
from ampguard.auditing.flow.optional_given_back import uses_of_what_is_given_back
from ampguard.auditing.flow.optional_has_attribute import uses_behind_hasattr
from ampguard.auditing.flow.optional_inverted import uses_where_none
from ampguard.auditing.flow.optional_kept import uses_of_what_init_keeps
from ampguard.auditing.flow.optional_left_in_arm import uses_behind_an_arm
from ampguard.auditing.flow.optional_left_out import uses_of_what_was_left_out
from ampguard.auditing.flow.optional_of_objects import uses_of_what_objects_leave_out
from ampguard.auditing.flow.optional_one_armed import one_armed
from ampguard.auditing.flow.optional_options import uses_of_options_left_out
from ampguard.auditing.flow.optional_ordered import sums_of_what_may_be_none
from ampguard.auditing.flow.optional_packages import uses_of_missing_packages
from ampguard.auditing.flow.optional_passed_on import uses_of_what_is_passed_on
from ampguard.auditing.flow.optional_paths import uses_on_paths
from ampguard.auditing.flow.optional_plain import plain_uses
from ampguard.auditing.flow.optional_returned import WORDS, taken_for_objects
from ampguard.auditing.flow.optional_scripts import uses_of_settings_of_other_scripts
from ampguard.auditing.flow.optional_searched import uses_of_what_was_not_found
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule


class OptionalUsedUnguarded(Rule):
    """A scaler, logger, writer, run or scheduler that may be None is used without a guard.

    ## What it does
    Follows what the code itself makes None (an assignment, the other arm of a ternary, a parameter that defaults to
    None and is tested elsewhere) to a use on a path that no guard closes: `is not None`, truth, an early return, or
    the flag that decided the assignment. Also a parameter that a caller in another file tests for None around its own
    uses and hands over without asking; and, low, what a maker returns from a global that begins as None, and the logger
    of a trainer that is given none on some path. Low as well, for any name: what a function uses at once and asks
    about nowhere, although its own default (or what the file hands on, or an `except` before) makes it None; a
    package that a failed import leaves None and that the project nowhere asks about; and a scheduler, logger or the
    like that `__init__` keeps as it is given, None by default. So is any name that one path of its function leaves
    None, where the use stands under no test of something else: what a branch sets to None, a parameter that the
    function asks about elsewhere; and an attribute that `__init__` leaves None for some option, that one method asks
    about and another does not. A use under the very test that says None (`if x is None: x.close()`) is medium for any
    name, and so is the bias of a layer that the class makes with `bias=False` and begins all the same.
    Low too: what a call answers and one side of a test uses, while the other side asks whether it is None; a setting
    that only some of the scripts that run a function set; a scaler or the like that one side of a test gives an object.
    Names of any kind are followed along paths, and asked about so widely, in files alone that train, judge, log or are
    started: what a library's function does without its arguments is left to its users.
    Low as well: what is asked about only behind its use, kept by `__init__` that needs it itself, always there where
    `hasattr` asks, given by a conjunction alone, or passed on to what asks; and an option loaded without a default.
    So is what a call that works in place answers, where it is taken for the object:
    `optim = optim.load_state_dict(state)`, `keys = list(x).sort()`.

    ## Why is this bad
    AttributeError: 'NoneType' object has no attribute ... in exactly the configuration that is run least: without
    AMP, without a tracker, on the machine without a GPU.

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn, use_amp):
        scaler = torch.amp.GradScaler("cuda") if use_amp else None
        for x, y in loader:
            loss = loss_fn(model(x), y)
            if use_amp:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
            else:
                loss.backward()
                optimizer.step()
            scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn, use_amp):
        scaler = torch.amp.GradScaler("cuda") if use_amp else None
        for x, y in loader:
            loss = loss_fn(model(x), y)
            if scaler is not None:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
    ```

    ## Fix safety
    A guard changes nothing where the object exists. `GradScaler(enabled=use_amp)` needs no guard at all.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler (its `enabled` argument)
    """

    code = "NON001"
    name = "optional-used-unguarded"
    severity = Severity.MEDIUM
    likelihood = "likely"
    impact = "AttributeError on None in the configuration that leaves it out."
    risk = "Low: a guard changes nothing where the object exists."
    fix = "Guard the use with `is not None`, or make the object a null object (`GradScaler(enabled=False)`)."
    words = (
        ".bias",
        *WORDS,
        "None",
        "environ",
        "getenv",
        "trainer.logger.",
        "scheduler",
        "scaler",
        "writer",
        "logger",
        "tracker",
    )

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first unguarded use of each such object in each function, one a line."""
        yield from self._returned(module)
        told: set[int] = set()
        for at, message, options in _uses(module):
            line: int = getattr(at, "lineno", 0)
            if line not in told:
                told.add(line)
                yield self.finding(module, at, message, **options)

    def _returned(self, module: Module) -> Iterator[Finding]:
        """Yield what is bound to the answer of a call that works in place."""
        for bound in taken_for_objects(module) if module.mentions(WORDS) else ():
            then = f", and line {bound.used.lineno} uses it" if bound.used is not None else ""  # type: ignore[attr-defined]
            text = f"`{bound.place}` is what {module.segment(bound.call.func, 40)}() answers: {bound.what}{then}"
            fix = "Leave out the assignment: the call changes the object."
            yield self.finding(module, bound.call, text, severity=None if bound.certain else Severity.LOW, fix=fix)


_Told = tuple[ast.AST, str, dict[str, Any]]
"""Where, the message, and what differs from the rule's own severity and likelihood."""

_GUESSED: dict[str, Any] = {"severity": Severity.LOW, "likelihood": "possible"}
"""What names and habits tell, and no path from the None to the use."""

_Source = Callable[[Module], Iterable[Use]]


def _uses(module: Module) -> Iterator[_Told]:
    """Walk what is told of a file, the surest first."""
    for use in uses_where_none(module):
        yield use.node, _reached(module, use), {"likelihood": "certain"}
    for use in unguarded_uses(module):
        # What a function of the project answers may hang on what it is given: no more than a place to look at.
        severity = Severity.LOW if isinstance(use.origin, ast.Call) else None
        yield use.node, _reached(module, use), {"severity": severity, "critical_path": "scaler" in use.place}
    for missing in missing_biases(module):
        line = missing.layer.lineno
        message = f"{module.segment(missing.use)} is None for the layer that line {line} makes without a bias"
        yield missing.use, message, {"severity": None if missing.certain else Severity.LOW}
    for use in uses_of_doubted_arguments(module):
        message = f"{module.segment(use.node)} is reached from a call that hands over `{use.place}` without asking"
        yield use.node, f"{message}, though its function takes it to be None at times", {}
    own = module.role not in ("test", "benchmark")
    wide = _WIDE if own and ("train" in module.path.rpartition("/")[0] or module.mentions(_OF_A_RUN)) else ()
    for source, message_of in (*_GUESSES[: None if own else 2], *wide):
        for use in source(module):
            yield use.node, message_of(module, use), _GUESSED


def _reached(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} is reached where `{use.place}` is None (line {line})"


def _perhaps(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} is reached where `{use.place}` may be None"


def _unasked(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} needs `{use.place}`, which line {line} leaves None, and nothing here asks"


def _doubted(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} needs `{use.place}`, which this class takes to be None at times"


def _asked_elsewhere(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} needs `{use.place}`, which this function takes to be None at times"


def _asked_later(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} needs `{use.place}`, and only line {line} asks whether it is None"


def _there_but_none(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} needs `{use.place}`, which is always there, and None at times (line {line})"


def _half_given(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} is reached where `{use.place}` is None and the other half of the test is false"


def _fallen_back(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} needs `{use.place}`, and what line {line} gives it may be None as well"


def _given_back(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} needs `{use.place}`, which is given back as line {line} left it: None"


def _option(module: Module, use: Use) -> str:  # noqa: ARG001
    line = getattr(use.origin, "lineno", 1)
    return f"`{use.place}` is loaded, and None where the option of line {line} is not given"


def _passed_on(module: Module, use: Use) -> str:
    return f"{module.segment(use.node)} needs `{use.place}`, which is None by default, and is asked about where it goes"


def _set_by_some(module: Module, use: Use) -> str:  # noqa: ARG001
    return f"`{use.place}` is set by some of the scripts that run this, and missing in the others"


def _one_sided(module: Module) -> Iterator[Use]:
    """Walk the things that one side of a test gives an object, but for the tests for CUDA, which AMP030 tells."""
    for found in (
        one_armed(module) if module.mentions(("scaler", "sched", "writer", "logger", "tracker", "ema")) else ()
    ):
        if is_thing(found.name) and not found.asks_for_cuda:
            yield Use(f"self.{found.name}", found.use, found.arm)


def _missing(module: Module, use: Use) -> str:
    line = getattr(use.origin, "lineno", 1)
    return f"{module.segment(use.node)} is reached where line {line} has given no `{use.place}`"


_Guess = tuple[_Source, Callable[[Module, Use], str]]

_GUESSES: tuple[_Guess, ...] = (
    (uses_of_what_a_maker_left_out, _perhaps),
    (uses_of_a_trainers_logger, _perhaps),
    (plain_uses, _unasked),
    (uses_of_attributes, _unasked),
    (uses_of_what_was_not_found, _unasked),
    (uses_of_missing_packages, _unasked),
    (uses_of_doubted_attributes, _doubted),
    (uses_behind_an_arm, _reached),
    (uses_of_what_is_asked_later, _asked_later),
    (uses_of_what_init_keeps, _unasked),
    (uses_behind_hasattr, _there_but_none),
    (uses_of_half_given, _half_given),
    (uses_of_doubtful_fallbacks, _fallen_back),
    (uses_of_what_is_given_back, _given_back),
    (uses_of_what_is_passed_on, _passed_on),
    (sums_of_what_may_be_none, _unasked),
    (uses_of_options_left_out, _option),
    (uses_of_what_objects_leave_out, _perhaps),
)
"""In this order; from the third on in code of one's own alone, not in tests and benchmarks."""

_WIDE: tuple[_Guess, ...] = (
    (uses_on_paths, _reached),
    (uses_of_what_was_left_out, _reached),
    (uses_of_what_is_asked_elsewhere, _asked_elsewhere),
    (uses_of_settings_of_other_scripts, _set_by_some),
    (_one_sided, _missing),
)
"""Of names of any kind: asked in files that train, judge, log or are started, where a run ends by it."""

_OF_A_RUN = (
    *("backward(", "optimizer", "no_grad", "scaler", "scheduler", "epoch", "ataloader", "DataLoader"),
    *("wandb", "writer", "ightning", "ccelerat", "add_argument("),
)
