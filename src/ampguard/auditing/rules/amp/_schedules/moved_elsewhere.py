"""Schedules that a loop moves through an object of another file: `model.update_learning_rate(i)` of an unknown model.

Only the names of the methods tell. A name counts where every method of that name in the project that moves a schedule
or steps an optimizer does that one thing, and for a move before the step, where no test in it may hold it back.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import Loop, called, key, receiver
from ampguard.auditing.rules.amp._steps import arms

_METHOD = regex(
    r"^([ \t]+)def (\w+)\(\s*self\b(?:[^()]|\([^()]*\))*\)[^:\n]*:[^\n]*\n((?:(?:\1[ \t]+[^\n]*|[ \t]*)\n)+)",
    re.MULTILINE,
)
_MOVES = regex(r"^[ \t]*(\w+\.)*\w*sched\w*(\[\w+\])?\.step\(\)", re.MULTILINE | re.IGNORECASE)
_HOLDS = regex(r"iter|step|epoch|accum|warm", re.IGNORECASE)
_ASKS = regex(r"last_epoch\s*=|get_scale|found_inf|skipped|yield")
_STEPS = regex(r"(optim\w*|\bopts?|_opt)(\[\w+\])?\.step\(|scaler\w*\.step\(")
_SCALED = regex(r"scaler\w*\.step\(")
_COMMON = frozenset(
    {"step", "update", "__call__", "__init__", "run", "forward", "train", "fit", "main", "on_epoch_end"}
)
_MAY_MOVE = regex(r"sched|learning_rate|(^|_)lr(_|$)")
"""A method that is asked about: the project is not read through for others."""

_EPOCHS = regex(r"epoch", re.IGNORECASE)


class _Names(NamedTuple):
    """The names of methods that do one thing wherever they do anything."""

    move: frozenset[str]
    move_at_once: frozenset[str]
    step: frozenset[str]
    step_scaled: frozenset[str]


class ElsewhereMove(NamedTuple):
    """A call that moves a schedule, one of the same loop that steps, and what is known of them."""

    move: ast.Call
    step: ast.Call
    first: bool
    scaled: bool


def schedules_moved_elsewhere(module: Module) -> Iterator[ElsewhereMove]:
    """Walk the calls of a loop over batches that move a schedule by their names alone, with the one that steps."""
    asked = [c for name, calls in module.calls.items() if _MAY_MOVE.search(name) for c in calls]
    looped = any(isinstance(c.func, ast.Attribute) and next(module.tree.loops(c), None) is not None for c in asked)
    names = _names(module.project) if looped else None
    if names is None or not names.move & module.calls.keys() or not names.step & module.calls.keys():
        return
    steps = [c for c in module.calls_of(*names.step) if isinstance(c.func, ast.Attribute)]
    for move in (c for c in asked if called(c) in names.move):
        loop = next(module.tree.loops(move), None)
        owner = key(receiver(move))
        if loop is None or owner in (None, "self") or _goes_over_epochs(loop):
            continue
        beside = [c for c in steps if next(module.tree.loops(c), None) is loop and key(receiver(c)) == owner]
        beside = [c for c in beside if not arms(module, c, move)]
        if beside:
            step = min(beside, key=lambda c: c.lineno)
            first = move.lineno < step.lineno and called(move) in names.move_at_once and not _tested(module, move, loop)
            scaled = called(step) in names.step_scaled and move.lineno > step.lineno
            yield ElsewhereMove(move, step, first, scaled)


def _names(project: Project) -> _Names | None:
    """Return what the names of methods tell in a project; None where none moves a schedule. Read once, not parsed."""
    question = ("methods that move schedules",)
    if question not in project.memo:
        project.memo[question] = _find_names(project)
    return project.memo[question]  # type: ignore[no-any-return]


def _find_names(project: Project) -> _Names | None:
    found: dict[str, dict[str, bool]] = {"move": {}, "move_at_once": {}, "step": {}}
    scaled: set[str] = set()
    for name, text in project.texts("sched", "optim"):
        if ".step(" not in text or "test" in name:
            continue
        for at in _METHOD.finditer(text):
            method, body = at[2], at[3]
            moves, steps = list(_MOVES.finditer(body)), bool(_STEPS.search(body))
            if method in _COMMON or (not moves and not steps):
                continue
            moving = bool(moves) and not steps and not _ASKS.search(body)
            at_once = moving and any(not _HOLDS.search(_tests_around(body, move.start())) for move in moves)
            for kind, does in (("move", moving), ("move_at_once", at_once), ("step", steps and not moves)):
                found[kind][method] = found[kind].get(method, True) and does
            scaled |= {method} if _SCALED.search(body) else set()
    move, at_once_all, step = (frozenset(n for n, all_do in names.items() if all_do) for names in found.values())
    return _Names(move, at_once_all, step, step & scaled) if move else None


def _tests_around(body: str, at: int) -> str:
    """Return the heads of the blocks around a place in a method's text, the outermost last."""
    lines = body[:at].splitlines()
    line = body[at:].split("\n", 1)[0]
    indent, heads = len(line) - len(line.lstrip()), []
    for above in reversed(lines):
        own = len(above) - len(above.lstrip())
        if above.strip() and own < indent:
            other_arm = re.match(r"\s*(else|elif)\b", above)
            indent = own + 1 if other_arm else own  # and then the test of that `if`
            heads.append(above if re.match(r"\s*(if|elif|while)\b", above) else "")
    return "\n".join(heads)


def _goes_over_epochs(loop: Loop) -> bool:
    head = [loop.test] if isinstance(loop, ast.While) else [loop.iter, loop.target]
    return any(_EPOCHS.search(ast.unparse(part)) for part in head)


def _tested(module: Module, move: ast.Call, loop: Loop) -> bool:
    """Whether a move stands under a test in its loop."""
    for above in module.tree.above(move):
        if above is loop:
            return False
        if isinstance(above, ast.If | ast.Try):
            return True
    return True
