"""Values kept, or asked for, on the side of a test where there is nothing.

`if window is not None: self.window = default` with `else: self.window = window`: the arms are swapped, and what is
kept is None for certain. `hit = cache.get(size)`, then `hit.get(size)` with `cache[size] = made` below: whoever fills
the cache knows that it may miss.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import (
    failing_uses,
    is_asked,
    is_conditional,
)
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, is_none_literal, key, receiver, walk

_GOT = regex(r"^[ \t]*(\w+)[ \t]*=[ \t]*([\w.]+)\.get\(([\w.]+)\)[ \t]*$")
_WORDS = regex(r"[A-Za-z]\w{2,}")


def kept_as_none(module: Module) -> Iterator[Use]:
    """Walk what is kept on the side of a test where it is None, while the other side makes another value."""
    if not module.mentions(("is None", "is not None")):
        return
    tests: list[ast.Compare] = module.tree.all(ast.Compare)
    for test in tests:
        if not isinstance(test.ops[0], ast.Is | ast.IsNot) or not is_none_literal(test.comparators[0]):
            continue
        above = module.tree.parents[test]
        if not isinstance(test.left, ast.Name) or not isinstance(above, ast.If | ast.IfExp) or above.test is not test:
            continue  # what an attribute holds, a method of the other side may have made use of
        place, function = test.left.id, module.tree.function(test)
        kept = _kept(module, above, place, is_none=isinstance(test.ops[0], ast.Is)) if function is not None else None
        if kept is not None and function is not None and _is_swapped(module, function, kept, place):
            yield Use(place, kept, test)


def _kept(module: Module, test: ast.If | ast.IfExp, place: str, *, is_none: bool) -> ast.Assign | None:
    """Return the assignment of the place on the side where it is None, where the other side never speaks of it."""
    if isinstance(test, ast.IfExp):
        none, other = (test.body, test.orelse) if is_none else (test.orelse, test.body)
        statement = module.tree.parents[test]
        plain = isinstance(statement, ast.Assign) and key(none) == place and not is_none_literal(other)
        return statement if plain and not _speaks_of(other, place) else None  # type: ignore[return-value]
    none_arm, other_arm = (test.body, test.orelse) if is_none else (test.orelse, test.body)
    if any(_speaks_of(statement, place) for statement in other_arm):
        return None
    for statement in none_arm:
        if isinstance(statement, ast.Assign) and key(statement.value) == place:
            given = (s for s in other_arm if isinstance(s, ast.Assign) and not is_none_literal(s.value))
            return statement if any(_targets(s) == _targets(statement) for s in given) else None
    return None


def _targets(statement: ast.Assign) -> str | None:
    return key(statement.targets[0]) if len(statement.targets) == 1 else None


def _speaks_of(node: ast.AST, place: str) -> bool:
    return any(key(n) == place for n in walk(node) if isinstance(n, ast.expr))


def _is_swapped(module: Module, function: Function, kept: ast.Assign, place: str) -> bool:
    """Whether what is kept has the name of the place, or is used behind the test as if it were there."""
    name = _targets(kept)
    if name is None or name == place:
        return False
    if name.rpartition(".")[2] == place.rpartition(".")[2]:
        return True
    end = kept.end_lineno or kept.lineno
    uses = (u for u in failing_uses(module, function, name) if u.lineno > end)  # type: ignore[attr-defined]
    return name.isidentifier() and not is_asked(module, function, name) and any(True for _ in uses)


def uses_of_misses(module: Module) -> Iterator[Use]:
    """Walk the uses of what a cache was asked for, and may not have: the function itself fills it behind."""
    if ".get(" not in module.text:
        return
    for call in module.calls_of("get"):
        bound = module.tree.parents[call]
        owner = key(receiver(call))
        if owner is None or len(call.args) != 1 or not isinstance(bound, ast.Assign) or call.keywords:
            continue
        name, function = key(bound.targets[0]), module.tree.function(call)
        if function is None or name is None or not name.isidentifier():
            continue
        if _is_filled_behind(module, function, call, owner, name) and not is_asked(module, function, name):
            uses = (u for u in failing_uses(module, function, name) if u.lineno > bound.lineno)  # type: ignore[attr-defined]
            use = next((u for u in uses if not is_conditional(module, u, function)), None)
            if use is not None and not is_conditional(module, bound, function):
                yield Use(name, use, bound)


def _is_filled_behind(module: Module, function: Function, call: ast.Call, owner: str, name: str) -> bool:
    """Whether a test of what was got has an item of the same key stored, and nothing asked for it before."""
    wanted = ast.unparse(call.args[0])
    stored = (
        n
        for n in module.tree.all(ast.Subscript)
        if isinstance(n.ctx, ast.Store) and key(n.value) == owner and ast.unparse(n.slice) == wanted
    )
    behind = [n for n in stored if module.tree.inside(n, function) and n.lineno > call.lineno]
    tests = (above.test for n in behind for above in module.tree.above(n) if isinstance(above, ast.If))
    if not any(isinstance(n, ast.Name) and n.id == name for test in tests for n in walk(test)):
        return False
    asked = (n for n in walk(function) if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.In | ast.NotIn))
    return not any(key(n.comparators[0]) == owner for n in asked)
