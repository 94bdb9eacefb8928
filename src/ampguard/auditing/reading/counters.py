"""Counters and containers that start at nothing: what is filled along with them, and when they grow."""

import ast
from collections.abc import Iterable, Iterator

from ampguard.auditing.reading.guards import excludes_zero, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.number_types import is_index
from ampguard.auditing.reading.reaching import Definition
from ampguard.auditing.reading.tree import Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.reading.zeros import Zero, is_nothing

_FILLS = ("append", "add", "extend", "update")


def filled_with(module: Module, changes: Iterable[ast.AST]) -> frozenset[str]:
    """Return the spellings of what is filled along with something: all that grows, or is set, in the same loops.

    Where one of them is not empty the loop has run and found items, so code that tests it has thought of none.
    """
    found: set[str] = set()
    for change in changes:
        loops = list(module.tree.loops(change))
        around: ast.AST = loops[-1] if loops else module.tree.parents[change]
        for place in module.once(("grown in", around), lambda top=around: _grown(top)):  # type: ignore[misc]
            found |= {place, f"len({place})"}
    return frozenset(found)


def grown_in(module: Module, scope: ast.AST, place: str) -> list[ast.AST]:
    """Return the statements of a scope that add to the place."""
    grown: dict[str, list[ast.AST]] = module.once(("growth", scope), lambda: _growth(scope))
    return grown.get(place, [])


def correlated(module: Module, node: ast.AST, changes: Iterable[ast.AST]) -> bool:
    """Whether the node stands under a condition under which one of the changes is made.

    Looks through one more step: a change under `len(kl) > 0` is made where `kl` grows. One branch around both, such
    as `if __name__ == "__main__":`, tells nothing: the count may begin in it.
    """
    around = [test for test, truth in tests_before(module, node) if truth]
    here = {ast.unparse(test) for test in around}
    return bool(here) and any(_follows(module, change, here, frozenset(around)) for change in changes)


def _follows(
    module: Module, change: ast.AST, here: set[str], around: frozenset[ast.expr], *, deeper: bool = True
) -> bool:
    for test, truth in tests_before(module, change):
        if not truth or test in around:
            continue
        if here & {ast.unparse(test), *_alternatives(test)}:
            return True
        if deeper and any(_follows(module, c, here, around, deeper=False) for c in _needed(module, test)):
            return True
    return False


def _alternatives(test: ast.expr) -> list[str]:
    """Return the operands of an `or`, each of which is enough."""
    return [ast.unparse(v) for v in test.values] if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else []


def _needed(module: Module, test: ast.expr) -> Iterator[ast.AST]:
    """Walk what must have been added for the test to be true: `len(kl) > 0` needs an `append` to `kl`."""
    scope = module.tree.scope(test)
    for node in walk(test):
        place = key(node)
        if place and excludes_zero(module, test, True, frozenset({place, f"len({place})"})):
            yield from grown_in(module, scope, place)


def _grown(top: ast.AST) -> frozenset[str]:
    """Return what is set or added to below a statement."""
    found: set[str | None] = set()
    for node in walk_scope(top):
        if isinstance(node, ast.Assign):
            found |= {key(t) for t in node.targets}
        elif isinstance(node, ast.AugAssign):
            found.add(key(node.target))
        elif isinstance(node, ast.Call) and called(node) in _FILLS:
            found.add(key(receiver(node)))
    found -= _indices(top)
    return frozenset(place for place in found if place)


def _indices(top: ast.AST) -> set[str | None]:
    if not isinstance(top, Loop):
        return set()
    return {key(n) for n in walk(top.test if isinstance(top, ast.While) else top.target)}


def _growth(scope: ast.AST) -> dict[str, list[ast.AST]]:
    found: dict[str, list[ast.AST]] = {}
    for node in walk_scope(scope):
        place = None
        if isinstance(node, ast.AugAssign):
            place = key(node.target)
        elif isinstance(node, ast.Call) and called(node) in _FILLS:
            place = key(receiver(node))
        if place:
            found.setdefault(place, []).append(node)
    return found


def first_index(place: str, definition: Definition) -> Zero | None:
    """The index of `range(n)` or `enumerate(xs)`, which is 0 on the first pass."""
    over, loop = definition.value, definition.node
    if not isinstance(over, ast.Call) or not isinstance(loop, ast.For | ast.AsyncFor) or not is_index(loop, place):
        return None
    first = over.args[1:] if called(over) == "enumerate" else over.args[:1] if len(over.args) > 1 else []
    if over.keywords or not all(is_nothing(start) for start in first):
        return None
    return Zero("index", f"is 0 on the first pass of the loop at line {loop.lineno}", loop.lineno)


def counted_inside(module: Module, place: str, definition: Definition) -> Zero | None:
    """A counter of this function that a function inside it counts (a callback, a thread)."""
    scope = module.tree.scope(definition.node)
    for node in module.tree.all(ast.AugAssign):
        inner = module.tree.scope(node)
        if key(node.target) == place and inner is not scope and module.tree.inside(inner, scope):
            where = module.tree.qualname(node).rpartition(".")[2]
            return Zero(
                "state",
                f"starts at 0 (line {getattr(definition.node, 'lineno', 0)}) and is counted in {where}()",
                node.lineno,
            )
    return None
