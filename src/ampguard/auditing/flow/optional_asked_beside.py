"""Uses behind a question that nothing came of: both of its sides go on, and what follows needs the thing all the same.

`loss - extra.item() if extra is not None else loss`, and in the next line `extra.item()`; or `if loader is not None:`
around one look at it, and `len(loader)` further down, under a test of something else.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, may_need, needed_by
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk, walk_scope

_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)
_WORDS = regex(r"[A-Za-z_]{2,}")
_OF_NO_MEANING = frozenset({"self", "is", "not", "None", "and", "or", "in", "len", "args", "cfg", "config", "type"})


def uses_beside_a_question(module: Module) -> Iterator[Use]:
    """Walk the first use behind each such question of a function."""
    if not module.mentions((" is not None", " is None")):
        return
    told: set[tuple[Function, str]] = set()
    for test in module.tree.all(ast.Compare):
        place, above = _asked(test), module.tree.parents[test]
        if place is None or not isinstance(above, ast.If | ast.IfExp) or above.test is not test:
            continue
        function, statement = module.tree.function(test), module.tree.statement(above)
        if function is None or (function, place) in told or _is_settled(above, place):
            continue
        use = _first_use(module, statement, place)
        if use is not None and not _is_asked_above(module, function, test, place):
            told.add((function, place))
            yield Use(place, use, test)


def _asked(test: ast.Compare) -> str | None:
    if not isinstance(test.ops[0], ast.Is | ast.IsNot) or not is_none_literal(test.comparators[0]):
        return None
    return key(test.left) if isinstance(test.left, ast.Name | ast.Attribute) else None


def _is_settled(above: ast.If | ast.IfExp, place: str) -> bool:
    """Whether one side of a question leaves, or gives the place a value."""
    if isinstance(above, ast.IfExp):
        return False
    arms = [arm for arm in (above.body, above.orelse) if arm]
    return any(_leaves(arm) or any(_gives(n, place) for s in arm for n in walk(s)) for arm in arms)


def _leaves(arm: list[ast.stmt]) -> bool:
    nodes = (n for s in arm for n in walk(s))
    return leaves(arm) or any(isinstance(n, ast.Return | ast.Raise | ast.Continue | ast.Break) for n in nodes)


def _gives(node: ast.AST, place: str) -> bool:
    """Whether a node gives the place, or what holds it, a value."""
    stored = isinstance(node, ast.Name | ast.Attribute) and not isinstance(node.ctx, ast.Load)
    return stored and (place == (held := key(node)) or place.startswith(f"{held}."))


def _first_use(module: Module, statement: ast.stmt, place: str) -> ast.AST | None:
    """Return the first use behind a question in its block, if nothing asks, leaves or gives a value before it."""
    words = _words(statement, place)
    for behind in module.tree.behind(statement) if not _keeps(statement, place) else ():
        if isinstance(behind, (*FUNCTIONS, ast.ClassDef)) or not may_need(place, module.text_of(behind)):
            found = None
        else:
            found = _open_use(module, behind, place, words)
        if found is not None:
            return found if not any(True for _ in module.tree.handlers_around(found)) else None
        nodes = [behind, *walk_scope(behind)]
        asks = any(asks_about(n.test, place) for n in nodes if isinstance(n, _TESTING))
        if asks or any(_gives(n, place) for n in nodes) or _leaves([behind]):
            return None
    return None


def _keeps(statement: ast.stmt, place: str) -> bool:
    """Whether the statement itself gives the place its value: `x = f(x) if x is not None else None`."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(_gives(n, place) for target in targets if target is not None for n in (target, *walk(target)))


def _words(statement: ast.stmt, place: str) -> re.Pattern[str]:
    """Return what a test may know of the place: its words, and the names that its question gives a value."""
    given = {n.id for n in walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    parts = {w for w in re.split(r"[._]", place) if len(w) > 2} - _OF_NO_MEANING
    return re.compile("|".join(sorted(re.escape(w) for w in {*given, *parts, place})))


def _open_use(module: Module, statement: ast.stmt, place: str, words: re.Pattern[str]) -> ast.AST | None:
    """Return the first use in a statement, where no test above it within may know of the place."""
    for node in (statement, *walk_scope(statement)):
        if not any(key(needed) == place for needed in needed_by(node)):
            continue
        below = node
        for above in module.tree.above(node):
            if below is statement:
                return node
            if isinstance(above, ast.Lambda | ast.ExceptHandler | ast.Match | ast.comprehension):
                return None
            tests = [above.test] if isinstance(above, _TESTING) else above.values if isinstance(above, ast.BoolOp) else []
            if any(asks_about(test, place) or (test is not below and words.search(ast.unparse(test))) for test in tests):
                return None
            below = above
        return node
    return None


def _is_asked_above(module: Module, function: Function, test: ast.AST, place: str) -> bool:
    """Whether a test above the question, or a statement before it that leaves, asks about the place."""
    for node in walk(function):
        if node is test or getattr(node, "lineno", test.lineno + 1) > test.lineno:  # type: ignore[attr-defined]
            continue
        if isinstance(node, ast.Assert) and place in ast.unparse(node.test):
            return True
        asks = isinstance(node, ast.If) and node.test is not test and place in ast.unparse(node.test)
        if asks and (_is_settled(node, place) or module.tree.inside(test, node)):  # type: ignore[arg-type]
            return True
    return False
