"""Schedules that are moved again and again before training begins, to come to where an earlier run stood.

`for _ in range(start_epoch): scheduler.step()` right behind the construction: the optimizer has made no step yet.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver


def replayed_schedules(module: Module) -> Iterator[ast.Call]:
    """Walk the first move of each loop that does nothing but move schedules, whose number of passes is computed."""
    loops = {
        loop for call in module.calls_of("step") if isinstance(loop := next(module.tree.loops(call), None), ast.For)
    }
    for loop in sorted(loops, key=lambda at: at.lineno):
        moves = [s.value for s in loop.body if isinstance(s, ast.Expr) and _moves(module, s.value)]
        if not moves or len(moves) < len(loop.body) or next(module.tree.loops(loop), None) is not None:
            continue
        first = moves[0]
        if isinstance(first, ast.Call) and _is_counted(loop) and _made_before(module, first, loop):
            yield first


def _moves(module: Module, node: ast.expr) -> bool:
    own = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step"
    return own and not node.args and is_scheduler(module, receiver(node))  # type: ignore[attr-defined, arg-type]


def _is_counted(loop: ast.For) -> bool:
    over = loop.iter
    constant = isinstance(over, ast.Call) and all(isinstance(a, ast.Constant) for a in over.args)
    return isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id == "range" and not constant


def _made_before(module: Module, move: ast.Call, loop: ast.For) -> bool:
    """Whether the function of a loop made the schedule, and steps, loads or simulates nothing before the loop."""
    owner = receiver(move)
    values = module.names.values(owner.id, owner) if isinstance(owner, ast.Name) else []
    function = module.tree.function(loop)
    made = any(isinstance(v, ast.Call) and module.tree.function(v) is function for v in values)
    used = (c for c in module.calls_of("load_state_dict", "get_last_lr", "get_lr") if key(receiver(c)) == key(owner))
    return made and not any(module.tree.function(c) is function for c in used)
