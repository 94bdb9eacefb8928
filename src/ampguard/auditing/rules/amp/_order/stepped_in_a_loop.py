"""Steps of a scaler that a loop over batches repeats, in functions that update it nowhere.

The paths of the protocol follow one optimizer; a loop over several takes each for another one, pass after pass.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Loop, called, key, receiver, walk_scope


def steps_without_update(module: Module) -> Iterator[tuple[ast.Call, Loop]]:
    """Walk (the step, the loop) where a loop scales and steps over and over, and nothing that it calls updates."""
    told: set[ast.AST] = set()
    for step in module.calls.get("step", ()):
        function, scaler = module.tree.function(step), receiver(step)
        loops = list(module.tree.loops(step))
        if function is None or function in told or len(loops) < _BOTH or not step.args or not is_scaler(module, scaler):
            continue
        if _goes_on(module, function, key(scaler), loops[-1]):
            told.add(function)
            yield step, loops[-1]


_BOTH = 2
"""A loop over optimizers within one over batches: what the paths do not follow from one pass to the next."""


def _goes_on(module: Module, function: Function, place: str | None, loop: Loop) -> bool:
    """Whether the loop scales with the scaler, and neither the function nor whom it hands it to updates it."""
    calls = [n for n in walk_scope(function) if isinstance(n, ast.Call)]
    if place is None or "." in place:
        return False  # what an object holds its other methods may update
    if any(called(c) in ("update", "minimize") and key(receiver(c)) == place for c in calls):
        return False
    handed = [c for c in calls if place in (*map(key, c.args), *(key(k.value) for k in c.keywords))]
    texts = [_text(module, c) for c in handed]
    if any(text is None or ".update(" in text for text in texts):
        return False
    within = [c for c in calls if module.tree.inside(c, loop)]
    own = any(called(c) == "scale" and key(receiver(c)) == place for c in within)
    return own or any(c in within and ".scale(" in (text or "") for c, text in zip(handed, texts, strict=True))


def _text(module: Module, call: ast.Call) -> str | None:
    """Return the source of what a call runs; None where it cannot be read."""
    place = target(module, call)
    if place is None:
        return None
    return place[0].text_of(place[1])
