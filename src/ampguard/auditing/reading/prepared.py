"""What a file hands to `accelerator.prepare(...)`, itself or through a function that passes it on.

A schedule that is not among it is not wrapped: it moves at each call whatever the optimizer does, and
`accelerator.save_state()` knows nothing of it.
"""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_optimizer, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key, receiver, walk_scope

_PASSES_ON = regex(r"prepare|setup|set_up|distribut|accelerat|wrap", re.IGNORECASE)
_SCHEDULES = regex(r"sched|(^|[._])lrs?$", re.IGNORECASE)


def leaves_schedule_out(module: Module) -> ast.Call | None:
    """Return the call that prepares the optimizers of a file; None where a schedule is, or may be, prepared too."""
    return module.once("prepared without schedule", lambda: _leaves_out(module))


def _leaves_out(module: Module) -> ast.Call | None:
    if "ccelerator" not in module.text or not module.mentions(("prepare",)):
        return None
    first: ast.Call | None = None
    for name, calls in module.calls.items():
        for call in calls if _PASSES_ON.search(name) else ():
            given = [*call.args, *(k.value for k in call.keywords)]
            if any(_may_be_schedule(module, a) for a in given):
                return None
            if any(_is_optimizer(module, a) for a in given) and _prepares(module, call):
                first = first if first is not None and first.lineno <= call.lineno else call
            elif name == "prepare" and any(isinstance(a, ast.Starred | ast.Dict | ast.List) for a in given):
                return None  # what they hold is not read
    return first


def _may_be_schedule(module: Module, node: ast.expr) -> bool:
    """Whether an argument is a schedule, holds one, or is made by what may make one."""
    for inner in (node, *walk_scope(node)):
        if isinstance(inner, ast.Name | ast.Attribute):
            if is_scheduler(module, inner) or _SCHEDULES.search(key(inner) or ""):
                return True
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str) and _SCHEDULES.search(inner.value):
            return True
    return isinstance(node, ast.Starred) and _SCHEDULES.search(module.text) is not None


def _is_optimizer(module: Module, node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and is_optimizer(module, node)


def _prepares(module: Module, call: ast.Call) -> bool:
    """Whether a call is `accelerator.prepare(...)`, or runs a function that hands all it is given to that."""
    if called(call) in ("prepare", "prepare_optimizer"):
        return "ccelerator" in (key(receiver(call)) or "")
    place = target(module, call, (".prepare(",))
    if place is None or place[1].args.vararg is None:
        return False
    passed = re.compile(rf"\.prepare\(\s*\*{place[1].args.vararg.arg}\s*\)")
    return passed.search(ast.unparse(place[1])) is not None
