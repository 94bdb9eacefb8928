"""The `forward` of a module runs at every step, whoever trains it: what waits for the device there waits each time."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Scope, key, receiver

_FETCHES = ("item", "tolist")
_ASKS = ("any", "all")
_PLAIN = ("training", "is None", "is not None", "isinstance", "exists(", "hasattr")
"""What a condition may speak of that holds at every step of a training, or at none."""


def fetched_in_forward(module: Module) -> Iterator[ast.Call]:
    """Walk the calls `x.item()` and `x.tolist()` of the `forward` methods of modules, outside of conditions."""
    for call in module.calls_of(*_FETCHES) if module.mentions(("def forward",)) else ():
        if not call.args and forward_around(module, call) is not None:
            yield call


def asked_in_forward(module: Module) -> Iterator[ast.expr]:
    """Walk the tests of `forward` methods that ask a tensor: `if mask.any():`."""
    for call in module.calls_of(*_ASKS) if module.mentions(("def forward",)) else ():
        owner = receiver(call)
        if owner is None or call.args or isinstance(owner, ast.Constant) or not _is_of_device(module, owner):
            continue
        test = _test_around(module, call)
        if test is not None and forward_around(module, test) is not None:
            yield test


def forward_around(module: Module, node: ast.AST) -> Function | None:
    """Return the `forward` of a module that runs the node at every call; None where a condition stands around it."""
    function = module.tree.function(node)
    cls = module.tree.parents.get(function) if function is not None and function.name == "forward" else None
    if not isinstance(cls, ast.ClassDef) or not any((key(base) or "").endswith("Module") for base in cls.bases):
        return None
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, Scope):
            break
        if isinstance(at, ast.If | ast.IfExp) and below is not at.test and not _is_plain(at.test):
            return None
        if isinstance(at, ast.ExceptHandler):
            return None
        below = at
    return function


def _is_plain(test: ast.expr) -> bool:
    text = ast.unparse(test)
    return any(word in text for word in _PLAIN) and "not self.training" not in text


def _is_of_device(module: Module, owner: ast.expr) -> bool:
    """Whether the receiver is no array of numpy and no module that has a function of that name."""
    return not any(name.split(".")[0] in ("np", "numpy", "math") for name in module.names.dotted(owner))


def _test_around(module: Module, call: ast.Call) -> ast.expr | None:
    """Return the test of the `if`, `while` or `assert` that the call decides; None where it stands elsewhere."""
    below: ast.AST = call
    for at in module.tree.above(call):
        if isinstance(at, ast.If | ast.While | ast.Assert):
            return at.test if below is at.test else None
        if not isinstance(at, ast.BoolOp | ast.UnaryOp | ast.Compare):
            return None
        below = at
    return None
