"""Whether something stands between a tracker's failure and the code around it."""

import ast

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Scope

_NARROW = frozenset({"KeyboardInterrupt", "ImportError", "ModuleNotFoundError", "StopIteration", "KeyError"})


def isolated(module: Module, node: ast.AST, within: ast.AST) -> bool:
    """Whether a `try` (or `suppress`) inside `within` catches what a tracker may raise at the node, and goes on.

    Handlers for what no tracker's outage raises (ImportError, KeyboardInterrupt) do not count.
    """
    below = node
    for at in module.tree.above(node):
        if at is within or isinstance(at, Scope):
            return False
        if isinstance(at, ast.Try | ast.TryStar) and below in at.body and any(_holds(h) for h in at.handlers):
            return True
        if isinstance(at, ast.With) and any("suppress" in ast.unparse(item.context_expr) for item in at.items):
            return True
        below = at
    return False


def _holds(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {ast.unparse(kind).rpartition(".")[2] for kind in kinds if kind is not None}
    ends = handler.body[-1]
    return not (names and names <= _NARROW) and not (isinstance(ends, ast.Raise) and len(handler.body) <= 2)
