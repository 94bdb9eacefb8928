"""Models that are wrapped for several GPUs under a test for GPUs, and whose `.module` is read under none.

`if self.use_gpu: self.net = nn.DataParallel(self.net)`, then `self.net.module.parameters()`: on a CPU the model itself
has no `module`.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, key
from ampguard.auditing.rules.amp._devices.refused import tests_outside
from ampguard.auditing.rules.amp._steps import callers

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "DDP")
_GPUS = regex(r"gpu|cuda|device_count", re.IGNORECASE)
_ASKED = regex(r"gpu|cuda|device|dist|parallel|ddp|module|world|rank|multi", re.IGNORECASE)


def module_of_the_unwrapped(module: Module) -> Iterator[ast.expr]:
    """Walk the readings of `.module` of a model that a file wraps under a test for GPUs only."""
    if not module.mentions(_WRAPPERS) or ".module" not in module.text:
        return
    wrapped = _wrapped(module)
    if not wrapped:
        return
    attributes: list[ast.Attribute] = module.tree.all(ast.Attribute)
    for node in attributes:
        place = key(node.value) if node.attr == "module" else None
        if place is None or not isinstance(node.ctx, ast.Load) or (place, _scope(module, node, place)) not in wrapped:
            continue
        if not _is_asked(module, node):
            yield node


def _wrapped(module: Module) -> set[tuple[str, ast.AST | None]]:
    """Return the places that are wrapped under a test for GPUs, and never else, with their classes or functions."""
    found: set[tuple[str, ast.AST | None]] = set()
    always: set[tuple[str, ast.AST | None]] = set()
    for call in module.calls_of(*_WRAPPERS):
        made = module.tree.parents[call]
        place = key(made.targets[0]) if isinstance(made, ast.Assign) else None
        if place is not None and call.args:
            conditional = key(call.args[0]) == place and _needs_gpus(module, call)
            (found if conditional else always).add((place, _scope(module, call, place)))
    return found - always


def _scope(module: Module, node: ast.AST, place: str) -> ast.AST | None:
    """Return the class that an attribute of the object belongs to, or the function of another place."""
    return module.tree.class_of(node) if place.startswith("self.") else module.tree.function(node)


def _needs_gpus(module: Module, call: ast.Call) -> bool:
    """Whether a call stands in the arm of a test for GPUs, and the other arm wraps nothing."""
    tests = [(test, inside) for test, inside in tests_outside(module, call) if _GPUS.search(ast.unparse(test))]
    if not tests or not all(inside for _, inside in tests):
        return False
    arms = [module.tree.parents[test] for test, _ in tests]
    others = [s for arm in arms if isinstance(arm, ast.If) for s in arm.orelse]
    return not any(isinstance(n, ast.Call) and called(n) in _WRAPPERS for s in others for n in ast.walk(s))


def _is_asked(module: Module, node: ast.expr) -> bool:
    """Whether a test around a reading, or around every call of its function, asks how the model is wrapped."""
    if any(_ASKED.search(ast.unparse(test)) for test, _ in tests_outside(module, node)):
        return True
    if any(True for _ in module.tree.handlers_around(node)):
        return True
    function = module.tree.function(node)
    if function is None:
        return False
    heads = (s for s in function.body if isinstance(s, ast.If | ast.Assert) and s.lineno < node.lineno)
    if any(_leaves(s) and _ASKED.search(ast.unparse(s.test)) for s in heads):
        return True
    calls = callers(module, function)
    return bool(calls) and all(any(_ASKED.search(ast.unparse(t)) for t, _ in tests_outside(module, c)) for c in calls)


def _leaves(statement: ast.If | ast.Assert) -> bool:
    return isinstance(statement, ast.Assert) or isinstance(statement.body[-1], ast.Return | ast.Raise)
