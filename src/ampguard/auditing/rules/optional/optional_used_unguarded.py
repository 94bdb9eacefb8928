"""Use of a scaler, logger, run or scheduler that may be None."""

import ast
from collections.abc import Iterator
from typing import Any

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.optional import unguarded_uses
from ampguard.auditing.flow.optional_bias import missing_biases
from ampguard.auditing.flow.optional_elsewhere import uses_of_doubted_arguments
from ampguard.auditing.flow.optional_inverted import uses_where_none
from ampguard.auditing.flow.optional_returned import WORDS, taken_for_objects
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.optional._answered import sure_uses
from ampguard.auditing.rules.optional._guesses import (
    COSTLY,
    GUESSES,
    MANY_FILES,
    OF_A_RUN,
    OF_A_START,
    OF_ONE_PROJECT,
    WIDE,
    Guess,
    reached,
)


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
    that only some of the scripts that run a function set; a scaler or the like that one side of a test gives an object;
    and what a function of the project left None by a setting and handed back in a tuple or under a key.
    A test above a use that its other side shows to tell nothing (`if use_amp: scheduler.step()`, and in the `else`
    `if scheduler is not None`) protects nothing.
    Names of any kind are followed along paths, and asked about so widely, in files alone that train, judge, log or are
    started: what a library's function does without its arguments is left to its users. In a project of more than 1,000
    files that holds for all that is low here: the layers of such a library take None by contract.
    Low as well: what is asked about only behind its use, kept by `__init__` that needs it itself, always there where
    `hasattr` asks, given by a conjunction alone, or passed on to what asks; and an option loaded without a default.
    Each function is read once in order for what it leaves None, is given as None by default, or reads off an attribute
    that `__init__` leaves None on some way; what a dictionary's `get` answers is told where it is read off at once
    (`inputs.get("token_type_ids").squeeze(1)`), and a parameter that one method takes without asking where another
    method of its class doubts it.
    So is what a call that works in place answers, where it is taken for the object:
    `optim = optim.load_state_dict(state)`, `keys = list(x).sort()`.

    Also what is kept on the side of a test where it is None (`if window is not None: self.window = default`, else
    `self.window = window`), what a cache may not have, and weights under `if norm.affine is not None`, which is never
    None. Low: what a function of the project answers as None on some path, alone or in a tuple, where its caller asks
    nowhere; a setting that the function asks about further down; a parameter that gets its value only under a second
    test; the bias beside an `elementwise_affine` weight, and that of layers that an imported file makes without one;
    `p.grad.norm()` over all parameters; an item that another file sets to None under a test.

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
        ".grad.",
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


def _uses(module: Module) -> Iterator[_Told]:
    """Walk what is told of a file, the surest first."""
    for use in uses_where_none(module):
        yield use.node, reached(module, use), {"likelihood": "certain"}
    for use, message in sure_uses(module):
        yield use.node, message, {}
    for use in unguarded_uses(module):
        # What a function of the project answers may hang on what it is given: no more than a place to look at.
        severity = Severity.LOW if isinstance(use.origin, ast.Call) else None
        yield use.node, reached(module, use), {"severity": severity, "critical_path": "scaler" in use.place}
    for missing in missing_biases(module):
        line = missing.layer.lineno
        message = f"{module.segment(missing.use)} is None for the layer that line {line} makes without a bias"
        yield missing.use, message, {"severity": None if missing.certain else Severity.LOW}
    for use in uses_of_doubted_arguments(module):
        message = f"{module.segment(use.node)} is reached from a call that hands over `{use.place}` without asking"
        yield use.node, f"{message}, though its function takes it to be None at times", {}
    for source, message_of in _guesses(module):
        for use in source(module):
            yield use.node, message_of(module, use), _GUESSED


def _guesses(module: Module) -> tuple[Guess, ...]:
    """Return what is asked of a file that is told by names and habits: the sources with their messages, in order."""
    own = module.role not in ("test", "benchmark")
    trains = "train" in module.path.rpartition("/")[0]
    starts = trains or module.mentions(OF_A_START)
    one_of_few = len(module.project.files) <= MANY_FILES
    if not own or not (one_of_few or starts):
        return GUESSES[:2]
    wide = WIDE if trains or module.mentions(OF_A_RUN) else ()
    if not one_of_few:
        return (*GUESSES, *wide)
    return (*GUESSES, *(OF_ONE_PROJECT if wide else ()), *wide, *(COSTLY if starts else ()))
