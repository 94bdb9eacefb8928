"""Models whose weights a function of the project reads for a script: `restore_checkpoint(paths, model)`."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.checkpoints import argument_for
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.runs import MODEL, source

_LOADS = regex(r"load|restore|resume|checkpoint|ckpt|weights|pretrained", re.IGNORECASE)
_SAYS = regex(r"\.eval\(|\.train\(")


def restored_elsewhere(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the call, the key of the model that it is handed) where what it runs reads weights and sets no mode."""
    for name, calls in module.calls.items():
        if not _LOADS.search(name):
            continue
        for call in calls:
            given = (*call.args, *(k.value for k in call.keywords))
            held = {place for value in given if (place := key(value)) and MODEL.search(place)}
            yield from ((call, place) for place in sorted(held & _restored(module, call) if held else ()))


def _restored(module: Module, call: ast.Call) -> set[str]:
    """Return the keys, as the caller knows them, of what the function of a call reads weights into."""
    place = target(module, call, ("load_state_dict(",))
    if place is None or _SAYS.search(source(*place)):
        return set()
    inner = (n for n in walk_scope(place[1]) if isinstance(n, ast.Call) and called(n) == "load_state_dict")
    read = {key(receiver(c)) for c in inner}
    given = (argument_for(call, place[1], arg.arg) for arg, _ in parameters(place[1]) if arg.arg in read)
    return {name for value in given if (name := key(value)) is not None}
