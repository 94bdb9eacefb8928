"""Forward passes that record for nobody, outside of what evaluates: told low, by what their file says of them."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._evaluation.recorded_in_any_phase import recorded_in_any_phase
from ampguard.auditing.rules.amp._evaluation.switched_on_again import switched_on_again

_WALKS = (recorded_in_any_phase, switched_on_again)


def recorded_elsewhere(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Walk (the run, what is wrong) of every such forward pass."""
    if module.role in ("test", "benchmark") or "torch" not in module.text:
        return
    for walk in _WALKS:
        yield from walk(module)
