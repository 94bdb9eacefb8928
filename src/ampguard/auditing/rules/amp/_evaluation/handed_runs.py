"""Models that are put into evaluation mode and handed, for each item of something, to what runs them while it records.

`model.eval()`, and then `predict(model, batch)` for each batch: the function may be one of the project, or a method of
the object's own that the classes below it in the file write anew.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.hidden_runs import is_given_data
from ampguard.auditing.rules.amp._evaluation.modes import Stretch
from ampguard.auditing.rules.amp._evaluation.recorded_between_steps import run_in
from ampguard.auditing.rules.amp._evaluation.runs import OFF, comprehension, off_around, source
from ampguard.auditing.rules.amp._evaluation.same_models import bare

_ADAPTS = regex(r"\.adapt\(|higher\.|\bmaml\b|\binner_(loop|steps?|lr|optim\w*)\b", re.IGNORECASE)
"""Words of models that learn from what they are judged by, as in meta-learning: they need their gradients."""


def handed_run(module: Module, stretch: Stretch) -> ast.Call | None:
    """Return the first call in a loop of a stretch that hands the model to what runs it with gradients on."""
    for statement in stretch.statements:
        for node in (statement, *walk_scope(statement)):
            given = (*node.args, *(k.value for k in node.keywords)) if isinstance(node, ast.Call) else ()
            if not isinstance(node, ast.Call) or stretch.model not in map(bare, given) or off_around(module, node):
                continue
            loop = comprehension(module, node) or next(module.tree.loops(node), None)
            over_data = loop is not None and is_given_data(module, node, loop)
            if over_data and _is_recorded(module, node, stretch.model):
                return node
    return None


def _is_recorded(module: Module, call: ast.Call, model: str) -> bool:
    """Whether one of the functions that a call may run runs the model, and none of them switches gradients off."""
    places = list(_may_run(module, call))
    texts = [source(*place) for place in places]
    if any(OFF.search(text) or _ADAPTS.search(text) for text in texts):
        return False
    return any(run_in(module, call, place, {model}) is not None for place in places)


def _may_run(module: Module, call: ast.Call) -> Iterator[Place]:
    """Walk the function that a call runs, and the methods that take its place in the classes below in the file."""
    place = target(module, call)
    if place is None:
        return
    yield place
    owner = module.tree.class_of(call) if key(receiver(call)) == "self" else None
    below = [c for c in module.tree.all(ast.ClassDef) if owner is not None and owner.name in map(key, c.bases)]
    for item in (item for cls in below for item in cls.body):
        if isinstance(item, FUNCTIONS) and item.name == called(call):
            yield module, item
