"""One finding for each training loop or step function, with the others of its kind counted in it."""

import ast
from collections.abc import Callable, Iterable, Iterator

from ampguard.auditing.findings import Finding
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.training import each_step, scope_of, step_function, step_tensors
from ampguard.auditing.reading.tree import Function, Loop

Say = Callable[[ast.AST, str], Finding]


def per_loop(module: Module, nodes: Iterable[ast.AST], say: Say) -> Iterator[Finding]:
    """Yield what `say` makes of the first node in each loop, or function, of a step; the others are counted.

    Args:
        module: The file.
        nodes: Places that make the host wait for the device.
        say: Makes the finding from the first place and the words about the others ("" or " (and 2 more ...)").
    """
    if module.role == "test":  # tests look at every step on purpose
        return
    found: dict[Loop | Function, list[ast.AST]] = {}
    for node in nodes:
        step = _step(module, node)
        if step is not None:
            found.setdefault(step, []).append(node)
    for around, places in found.items():
        first = min(places, key=lambda node: (node.lineno, node.col_offset))  # type: ignore[attr-defined]
        rest = len(places) - 1
        where = "loop" if isinstance(around, Loop) else "function"
        yield say(first, f" ({rest} more such place{'s' * (rest > 1)} in this {where})" if rest else "")


def _step(module: Module, node: ast.AST) -> Loop | Function | None:
    """Return the loop, or the function that loops call, in each pass of which the node runs."""
    return each_step(module, node) or step_function(module, node)


def tensors_at(module: Module, node: ast.AST) -> frozenset[str]:
    """Return the names that are tensors of the step where a node stands; none where it does not run at each step."""
    if _step(module, node) is None:
        return frozenset()
    return step_tensors(module, scope_of(module, node))
