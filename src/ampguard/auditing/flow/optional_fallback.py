"""Uses of a name that falls back to another which may be None as well.

`if path_e is None: path_e = path_g`, where `path_g` itself was asked about a few lines above.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use, tested_in_method
from ampguard.auditing.flow.optional_plain import asks_about, failing_uses, is_conditional
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, is_none_literal, key, walk_scope


def uses_of_doubtful_fallbacks(module: Module) -> Iterator[Use]:
    """Walk the first use behind each such fallback, in its block."""
    if not module.mentions((" is None:",)):
        return
    for branch in module.tree.all(ast.If):
        function = module.tree.function(branch) if len(branch.body) == 1 and not branch.orelse else None
        pair = _fallback(branch) if function is not None else None
        if pair is None or function is None or not _is_doubted(module, function, pair[1], branch):
            continue
        use = _first_use(module, branch, function, pair)
        if use is not None:
            yield Use(pair[0], use, branch.body[0])


def _fallback(branch: ast.If) -> tuple[str, str] | None:
    """Return (name, what it falls back to) of `if name is None: name = other`."""
    test, given = branch.test, branch.body[0]
    asks = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is) and is_none_literal(test.comparators[0])
    if not asks or not isinstance(given, ast.Assign) or not isinstance(given.value, ast.Name):
        return None
    name = key(test.left)  # type: ignore[attr-defined]
    return (name, given.value.id) if isinstance(name, str) and name == key(given.targets[0]) else None


def _is_doubted(module: Module, function: Function, other: str, branch: ast.If) -> bool:
    """Whether a function asks about a name before, in a test that neither leaves nor gives it a value."""
    if other not in tested_in_method(module, function):
        return False
    asking = [n for n in walk_scope(function) if isinstance(n, ast.If | ast.IfExp) and asks_about(n.test, other)]
    own = [n for n in asking if n is not branch]
    if not own or any(n.lineno > branch.lineno or module.tree.inside(branch, n) for n in own):
        return False
    held = module.tree.named(other, function)
    stores = [n for n in held if not isinstance(n.ctx, ast.Load)]
    if any(module.tree.inside(n, at) for n in stores for at in own):
        return False
    ifs = (n for n in own if isinstance(n, ast.If))
    return not any(leaves(n.body) or leaves(n.orelse) for n in ifs)


def _first_use(module: Module, branch: ast.If, function: Function, pair: tuple[str, str]) -> ast.AST | None:
    """Return the first use in the block behind a fallback, if no statement asks again or gives a value before."""
    for statement in module.tree.behind(branch):
        nodes = [statement, *walk_scope(statement)]
        tests = [n.test for n in nodes if isinstance(n, ast.If | ast.IfExp | ast.While | ast.Assert)]
        if any(asks_about(test, place) for test in tests for place in pair):
            return None
        for use in failing_uses(module, statement, pair[0]) if function is not None else ():
            if not is_conditional(module, use, module.tree.parents[statement]):
                return use
        if any(isinstance(n, ast.Assign) and any(key(t) == pair[0] for t in n.targets) for n in nodes):
            return None
    return None
