"""Loops that never clear what they step, in a file where only other functions do, or only other optimizers are cleared.

The question for the whole file (`zero-grad-missing`) is silenced by any clear in it. Here one function is asked, with
the helpers that it calls: no clear in it may be of the optimizer that its loop steps, and nothing that it calls may be
one by its name.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, Loop, argument, called, key, receiver, walk
from ampguard.auditing.rules.amp._order.seldom import training_loop
from ampguard.auditing.rules.amp._steps import RUNNERS, outlives_loop

_BACKWARD = ("backward", "managed backward")
_STEPS = ("step", "scaler step")
_CLEARS = regex(
    r"\.grad(\.data)?\s*=[^=]|del [^\n]*\.grad\b|zero_?grad|(\bg|grad\w*(\.data)?|[\])])\.zero_\(|set_to_none",
    re.IGNORECASE,
)
_MAY_CLEAR = regex(r"zero|reset|clear|callback|hook|^on_|^_?call$|optimi[sz]e|^(do_|_)?update|closure|^step_", re.I)
_STEP_CLEARS = regex(r"def step\(self\b[^\n]*\n(?:[ \t]+[^\n]*\n|\n){0,40}?[ \t]+[^\n]*zero_grad")
"""An optimizer of the project's own, whose step clears."""


class Uncleared(NamedTuple):
    """A step whose loop never clears what it applies."""

    step: ast.Call
    loop: Loop
    function: Function
    by_name: bool
    """Whether only names tell that the models which are cleared are not those of the optimizer."""


def cleared_by_others(module: Module) -> Iterator[Uncleared]:
    """Walk the first such step of each loop and optimizer."""
    if module.mentions(RUNNERS) or module.role == "test":
        return
    told: set[tuple[Loop, str]] = set()
    for root, ops in skeletons(module):
        if not isinstance(root, FUNCTIONS):
            continue
        found = list(events(ops))
        own = [e for e in found if e.module is module and not e.stack]
        steps = [e for e in own if e.kind in _STEPS]
        passes = [e.stack[0][1] if e.stack else e.node for e in found if e.kind in _BACKWARD]
        if not steps or not passes or not _all_known(module, root, own):
            continue
        clears = [e for e in found if e.kind in ("zero", "clear")]
        for step in steps:
            loop = training_loop(module, step.node, passes)
            what = str(step.data.get("optimizer") or "")
            others = [e for e in clears if not e.data.get("is_optimizer") and _of_the_other(e, what)]
            left = [e for e in clears if e not in others]
            if loop is not None and (loop, what) not in told and _never_clears(module, step, loop, left, others):
                told.add((loop, what))
                assert isinstance(step.node, ast.Call)
                yield Uncleared(step.node, loop, root, bool(others))


def _all_known(module: Module, root: Function, own: list[Event]) -> bool:
    """Whether each line of a function that may clear gradients is a clear of which it is known what it clears."""
    known = {getattr(e.node, "lineno", 0) for e in own if e.kind in ("zero", "clear")}
    lines = range(root.lineno, (root.end_lineno or root.lineno) + 1)
    return all(line in known for line in lines if _CLEARS.search(module.lines[line - 1].partition("#")[0]))


_PLAIN_WORDS = regex(r"optimi[sz]er|optim|opt|solver|model|network|net|^self|[._]", re.IGNORECASE)
_SIDES = ({"g", "gen", "generator"}, {"d", "dis", "disc", "discr", "discriminator", "critic"})
"""What is left of the names of the two sides of an adversarial training, and of their optimizers."""


def _of_the_other(clear: Event, optimizer: str) -> bool:
    """Whether a model is cleared that is the other side's: `d_model.zero_grad()` beside `g_optimizer.step()`."""
    cleared, stepped = (_PLAIN_WORDS.sub("", name).lower() for name in (clear.data.get("optimizer") or "", optimizer))
    return any(cleared in one and stepped in other for one, other in (_SIDES, _SIDES[::-1]))


def _never_clears(module: Module, step: Event, loop: Loop, clears: list[Event], others: list[Event]) -> bool:
    applied = _applied(step)
    place = step.data.get("optimizer")
    if applied is None or key(applied) is None or not place or not outlives_loop(module, applied, loop):
        return False
    if any(not e.data.get("is_optimizer") or e.data.get("optimizer") == place for e in clears):
        return False
    over = ast.unparse(loop.iter) if isinstance(loop, ast.For | ast.AsyncFor) else ""
    if re.search(r"optim|param|group|micro|accum|module", over, re.IGNORECASE):
        return False
    known = {e.node for e in (*clears, *others)}
    calls = [n for n in walk(loop) if isinstance(n, ast.Call) and n not in known]
    if any(_may_clear(c) or _takes_away(module, c, key(applied)) for c in calls):
        return False
    return not module.project.says(_STEP_CLEARS, "def step(")


def _applied(step: Event) -> ast.expr | None:
    call = step.node
    assert isinstance(call, ast.Call)
    return receiver(call) if step.kind == "step" else argument(call, 0, "optimizer")


def _may_clear(call: ast.Call) -> bool:
    """Whether a call may clear gradients by its name; a meter's `update` or a tensor's `zero_` does not."""
    if "update" in called(call):
        return key(receiver(call)) in (None, "self")
    if called(call) == "zero_":
        return bool(_CLEARS.search(ast.unparse(call)))
    return bool(_MAY_CLEAR.search(called(call)))


def _takes_away(module: Module, call: ast.Call, optimizer: str | None) -> bool:
    """Whether a call that cannot be read is handed the optimizer, which it may clear."""
    given = [*call.args, *(k.value for k in call.keywords)]
    handed = any(key(g) == optimizer for g in given) and called(call) not in ("step", "unscale_", "minimize")
    return handed and target(module, call) is None
