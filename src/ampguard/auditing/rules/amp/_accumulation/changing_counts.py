"""Numbers of micro-batches that change while they are counted: `k = round(interp(i, ...))`, then `if i % k == 0`.

The remainder is of the number of the batch, not of the batches since the last step: where k grows from 3 to 4 at the
batch 9, the next step comes after three more, or after seven.
"""

import ast

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, walk
from ampguard.auditing.rules.amp._accumulation.loops import Accumulation
from ampguard.auditing.rules.amp._steps import assigned_below, bases


def changed_in_its_loop(module: Module, found: Accumulation) -> ast.Assign | None:
    """Return where the loop gives k a value that follows the loop itself, where a remainder by it tells the step."""
    place = key(found.count)
    if found.test is None or place is None or not _is_a_remainder(found.test.test, place):
        return None
    if place not in assigned_below(module, found.loop):
        return None
    assignments: list[ast.Assign] = module.tree.all(ast.Assign)
    for node in assignments:
        if key(node.targets[0]) == place and module.tree.inside(node, found.loop) and _follows(module, node, found):
            return node
    return None


def _is_a_remainder(test: ast.expr, place: str) -> bool:
    remainders = (n for n in walk(test) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod))
    return any(key(n.right) == place for n in remainders)


def _follows(module: Module, given: ast.Assign, found: Accumulation) -> bool:
    """Whether what k is given is made of what the loop itself counts or computes."""
    own = assigned_below(module, found.loop) - {key(found.count)}
    named = (key(n) for n in walk(given.value) if isinstance(n, ast.Name | ast.Attribute))
    return any(base in own for place in named if place for base in bases(place))
