"""Steps of one optimizer in both arms of an `if` of which one clears: a function that is one step of training.

As where only the arm of half precision clears. Unlike in a loop, what calls the function may clear: it is asked, too.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, walk
from ampguard.auditing.rules.amp._steps import arms, callers, enclosing

_STEPS = ("step", "scaler step")
_BACKWARD = ("backward", "managed backward")
_CLEARS = regex(r"zero_?grad|\.grad\s*=[^=]|set_to_none|reset_grad|clear_grad", re.IGNORECASE)


def steps_that_half_clears(module: Module) -> Iterator[tuple[Event, Event]]:
    """Walk (the step, the clear behind the step of the other arm), once a function that no loop of its own runs."""
    if not module.calls.get("zero_grad") or module.role == "test":
        return
    for root, ops in skeletons(module):
        if not isinstance(root, FUNCTIONS):
            continue
        found = list(events(ops))
        own = list({e.node: e for e in found if e.module is module and not e.stack}.values())
        pair = _half(module, own, found)
        if pair is not None and not _cleared_around(module, root):
            yield pair


def _half(module: Module, own: list[Event], found: list[Event]) -> tuple[Event, Event] | None:
    clears = [e for e in found if e.kind in ("zero", "clear")]
    if len(clears) != 1 or clears[0] not in own or not any(e.kind in _BACKWARD for e in own):
        return None
    clear = clears[0]
    what = clear.data.get("optimizer")
    steps = [e for e in own if e.kind in _STEPS and e.data.get("optimizer") == what]
    with_clear = [e for e in steps if _one_block(module, e, clear)]
    for step in steps:
        if any(module.tree.loops(step.node)) or not arms(module, step.node, clear.node):
            continue
        if any(_both_arms(module, step, other) for other in with_clear):
            return step, clear
    return None


def _one_block(module: Module, step: Event, clear: Event) -> bool:
    blocks = [module.tree.parents[module.tree.statement(e.node)] for e in (step, clear)]
    return blocks[0] is blocks[1] and not arms(module, step.node, clear.node)


def _both_arms(module: Module, step: Event, other: Event) -> bool:
    """Whether two steps are alike, and stand in the two arms of the innermost `if` around them."""
    above = [module.tree.parents[module.tree.statement(e.node)] for e in (step, other)]
    return above[0] is above[1] and isinstance(above[0], ast.If) and step.kind == other.kind


def _cleared_around(module: Module, function: Function) -> bool:
    """Whether what calls a function may clear, in its own body or where the project names it elsewhere."""
    text = "\n".join(module.text_of(enclosing(module, call)) for call in callers(module, function))
    if _CLEARS.search(text) or any(_may_clear_in_arm(node) for node in walk(function)):
        return True
    named = re.compile(rf"\b{re.escape(function.name)}\(")
    elsewhere = (t for path, t in module.project.texts(function.name) if path != module.path and named.search(t))
    return any(_CLEARS.search(t) and f"def {function.name}(" not in t for t in elsewhere)


def _may_clear_in_arm(node: ast.AST) -> bool:
    """Whether a call is named as one that clears in some other way."""
    name = node.func if isinstance(node, ast.Call) else None
    word = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
    return bool(re.search(r"clear|reset|zero_(?!grad)", word))
