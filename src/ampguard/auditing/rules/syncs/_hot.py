"""One finding for the places that stand together in a training loop or step function, the others counted in it."""

import ast
from collections.abc import Callable, Iterable, Iterator

from ampguard.auditing.findings import Finding
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.training import each_step, scope_of, step_function, step_tensors
from ampguard.auditing.reading.tree import Function, Loop
from ampguard.auditing.rules.syncs._forward import forward_around

_NEAR = 3
"""Lines that a reader sees at one glance."""

Say = Callable[[ast.AST, str], Finding]


def per_loop(
    module: Module, nodes: Iterable[ast.AST], say: Say, further: Callable[[ast.AST], Loop | None] | None = None
) -> Iterator[Finding]:
    """Yield what `say` makes of the first node in each loop, or function, of a step; those near by are counted.

    What stands further down in the same loop is told again: one mended line does not mend the other.

    Args:
        module: The file.
        nodes: Places that make the host wait for the device.
        say: Makes the finding from the first place and the words about the others ("" or " (and 2 more ...)").
        further: Gives the loop of a place that runs at no training step, None where its loop does not count either.
    """
    if module.role == "test":  # tests look at every step on purpose
        return
    found: dict[Loop | Function, list[ast.AST]] = {}
    for node in nodes:
        step = _step(module, node) or forward_around(module, node) or (further(node) if further is not None else None)
        if step is not None:
            found.setdefault(step, []).append(node)
    for around, places in found.items():
        where = "loop" if isinstance(around, Loop) else "function"
        for group in _together(places):
            rest = len(group) - 1
            yield say(group[0], f" ({rest} more such place{'s' * (rest > 1)} near by in this {where})" if rest else "")


def _together(places: list[ast.AST]) -> list[list[ast.AST]]:
    """Return the places in groups, in source order: a group reaches so many lines down from its first place."""
    groups: list[list[ast.AST]] = []
    for node in sorted(places, key=lambda node: (node.lineno, node.col_offset)):  # type: ignore[attr-defined]
        if groups and node.lineno - groups[-1][0].lineno <= _NEAR:  # type: ignore[attr-defined]
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def _step(module: Module, node: ast.AST) -> Loop | Function | None:
    """Return the loop, or the function that loops call, in each pass of which the node runs."""
    return each_step(module, node) or step_function(module, node)


def tensors_at(module: Module, node: ast.AST) -> frozenset[str]:
    """Return the names that are tensors of the step where a node stands; none where it does not run at each step."""
    if _step(module, node) is None:
        return frozenset()
    return step_tensors(module, scope_of(module, node))
