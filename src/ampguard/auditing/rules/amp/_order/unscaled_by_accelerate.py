"""Clips of an Accelerator that run again before its optimizer has stepped.

`accelerator.clip_grad_norm_` unscales the gradients of every prepared optimizer first, and in float16 a second time
raises, as `unscale_` does: in the micro-batches of `accelerator.accumulate(...)` that do not synchronise, whose steps
are left out; in a loop that steps every k-th time by hand; and in the second of two clips of one step.
"""

import ast
import itertools
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, key, receiver
from ampguard.auditing.rules.amp._accumulation.loops import ACCUMULATES, accumulations
from ampguard.auditing.rules.amp._order.cleared_in_accumulate import says_how_many, within_accumulate
from ampguard.auditing.rules.amp._steps import arms, enclosing, tests_above

_UNSCALES = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "unscale_gradients")
_HALF = regex(r"fp16|float16|mixed_precision")
_COUNTS = regex(r"sync|%|last|is_(update|step)", re.IGNORECASE)
"""Tests that may be true for the micro-batch alone that steps."""

_STEPS = regex(r"step|update|optim", re.IGNORECASE)


def unscaled_again(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the clip, where it was run before) of clips that run again before a step."""
    clips = _clips(module) if "ccelerat" in module.text and module.mentions(_UNSCALES) else []
    told: set[ast.Call] = set()
    for clip in clips:
        if not _asks(module, clip) and _in_every_micro_batch(module, clip):
            told.add(clip)
            yield clip, "in the micro-batch before, which does not step"
    for first, second in itertools.pairwise(clips):
        if second not in told and _with_nothing_between(module, first, second):
            yield second, f"in line {first.lineno}"


def trains_in_half(module: Module) -> bool:
    """Whether the file says that it gathers gradients, and that it may train in float16."""
    return says_how_many(module) and _HALF.search(module.text) is not None


def _clips(module: Module) -> list[ast.Call]:
    found = (c for c in module.calls_of(*_UNSCALES) if "ccelerat" in (key(receiver(c)) or ""))
    return sorted(found, key=lambda c: (c.lineno, c.col_offset))


def _asks(module: Module, clip: ast.Call) -> bool:
    """Whether a test above a clip, or one in front that leaves the others, is of the micro-batch that steps."""
    tests = [test for test, _ in tests_above(module, clip)]
    for at in (clip, *module.tree.above(clip)):
        if isinstance(at, FUNCTIONS):
            break
        above = module.tree.parents.get(at)
        body = getattr(above, "body", None)
        before = body[: body.index(at)] if isinstance(body, list) and at in body else []
        tests += [s.test for s in before if isinstance(s, ast.If) and isinstance(s.body[-1], ast.Continue | ast.Return)]
    return any(_speaks_of_steps(ast.unparse(test)) for test in tests)


def _speaks_of_steps(text: str) -> bool:
    return _COUNTS.search(text) is not None or ACCUMULATES.search(text) is not None


def _in_every_micro_batch(module: Module, clip: ast.Call) -> bool:
    """Whether a clip stands in `accumulate(...)` with its step, or in a loop whose step comes every k-th time."""
    around = within_accumulate(module, clip)
    if around is not None:
        return any(module.tree.inside(c, around) for c in module.calls_of("backward", "step"))
    for found in accumulations(module):
        if found.test is None or not module.tree.inside(clip, found.loop):
            continue
        skipping = not module.tree.inside(found.step, found.test)
        if not module.tree.inside(clip, found.test) and not (skipping and clip.lineno > found.test.lineno):
            return enclosing(module, clip) is enclosing(module, found.loop)
    return False


def _with_nothing_between(module: Module, first: ast.Call, second: ast.Call) -> bool:
    """Whether two clips of one Accelerator may run one behind the other, with no step between them."""
    if key(receiver(first)) != key(receiver(second)) or module.tree.function(first) is not module.tree.function(second):
        return False
    if list(module.tree.loops(first)) != list(module.tree.loops(second)) or arms(module, first, second):
        return False
    if _excluded(module, first, second) or any(module.tree.handlers_around(first)):
        return False
    between = range(first.lineno, second.lineno + 1)
    steps = (c for name, calls in module.calls.items() if _STEPS.search(name) for c in calls)
    return not any(c.lineno in between for c in steps)


def _excluded(module: Module, first: ast.Call, second: ast.Call) -> bool:
    """Whether the branch of the first clip leaves before the second, or the tests of the two are opposites."""
    for at in module.tree.above(first):
        if module.tree.inside(second, at):
            break
        if isinstance(at, ast.If) and isinstance(at.body[-1], ast.Return | ast.Continue | ast.Break | ast.Raise):
            return True
    ours, theirs = ({(ast.unparse(test), inside) for test, inside in tests_above(module, c)} for c in (first, second))
    same = {(text.removeprefix("not "), inside is not text.startswith("not ")) for text, inside in ours}
    return any((text.removeprefix("not "), inside is text.startswith("not ")) in same for text, inside in theirs)
