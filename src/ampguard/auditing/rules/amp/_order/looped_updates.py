"""Updates of one scaler in a loop over the optimizers of a step."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, argument, key, receiver, walk

_OPTIMIZERS = regex(r"optim|\bopts?\b|_opts?\b", re.IGNORECASE)


def looped_updates(module: Module) -> Iterator[tuple[ast.Call, Loop]]:
    """Walk the updates that run once for each optimizer of a loop whose variable the same scaler steps."""
    for update in module.calls_of("update"):
        if not is_scaler(module, receiver(update)) or key(receiver(update)) is None:
            continue
        loop = next(module.tree.loops(update), None)
        if (
            isinstance(loop, ast.For)
            and _OPTIMIZERS.search(ast.unparse(loop.iter))
            and _steps_each(module, update, loop)
        ):
            yield update, loop


def _steps_each(module: Module, update: ast.Call, loop: ast.For) -> bool:
    names = {node.id for node in walk(loop.target) if isinstance(node, ast.Name)}
    scaler = key(receiver(update))
    if any(name in (scaler or "").split(".") for name in names) or "[" in (scaler or ""):
        return False  # each optimizer has a scaler of its own
    steps = (c for c in module.calls_of("step") if key(receiver(c)) == scaler and module.tree.inside(c, loop))
    given = (argument(c, 0, "optimizer") for c in steps)
    return any(isinstance(node, ast.Name) and node.id in names for g in given if g is not None for node in walk(g))
