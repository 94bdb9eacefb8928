"""Branches that are taken in every pass of a loop or in none: what they ask about, the loop does not change."""

import ast

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, key, walk
from ampguard.auditing.rules.amp._steps import arms, assigned_below, bases


def in_a_settled_arm(module: Module, node: ast.AST, step: ast.AST, branch: ast.If, loop: Loop) -> bool:
    """Whether a node runs before a backward pass in one arm of a branch that the loop cannot change its mind about.

    As in `if scaler is None: ... else: ...`; a call, a remainder, or what the loop assigns may answer anew. The step
    stands in no other arm: there the node runs in a way of training that does not accumulate.
    """
    if arms(module, node, step) or any(
        isinstance(n, ast.Call | ast.Mod | ast.NamedExpr) for n in ast.walk(branch.test)
    ):
        return False
    changed = assigned_below(module, loop)
    asked = {base for n in walk(branch.test) if (place := key(n)) for base in bases(place)}
    line = getattr(node, "lineno", 0)
    passes = (c for c in module.calls.get("backward", ()) if module.tree.inside(c, branch) and c.lineno > line)
    return not asked & changed and bool(asked) and any(not arms(module, c, node) for c in passes)
