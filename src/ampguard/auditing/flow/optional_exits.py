"""Uses, in `__exit__`, of the exception that ended the block: None wherever none did.

`def __exit__(self, kind, error, trace)` with `error.args` in its first line fails at each block that ends well.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, failing_uses, is_conditional
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, walk

_EXITS = ("__exit__", "__aexit__")
_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)


def uses_in_exits(module: Module) -> Iterator[Use]:
    """Walk the first use of the exception's class, the exception or its trace in each `__exit__` that asks for none."""
    if not module.mentions(("exit__(",)):
        return
    for function in module.functions:
        given = function.args.args[1:4] if function.name in _EXITS else []
        if not given or any(_asks(function, arg.arg) for arg in given):
            continue
        for arg in given:
            stored = any(not isinstance(held.ctx, ast.Load) for held in module.tree.named(arg.arg, function))
            use = next(failing_uses(module, function, arg.arg), None) if not stored else None
            if use is not None and not is_conditional(module, use, function):
                yield Use(arg.arg, use, arg)
                break


def _asks(function: Function, name: str) -> bool:
    for node in walk(function):
        tests = [node.test] if isinstance(node, _TESTING) else node.values if isinstance(node, ast.BoolOp) else []
        if any(asks_about(test, name) for test in tests):
            return True
    return False
