"""Uses behind a question that nothing came of: both of its sides go on, and what follows needs the thing all the same.

`loss - extra.item() if extra is not None else loss`, and in the next line `extra.item()`; or `if loader is not None:`
around one look at it, and `len(loader)` further down, under a test of something else.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, is_conditional, may_need, needed_by
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk, walk_scope

_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)
_APART = (
    ast.IfExp,
    ast.BoolOp,
    ast.While,
    ast.For,
    ast.Try,
    ast.Lambda,
    ast.ExceptHandler,
    ast.Match,
    ast.comprehension,
)
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
        if use is None or (place.isidentifier() and not _is_local(module, function, place)):
            continue
        if not _is_asked_above(module, function, test, place):
            told.add((function, place))
            yield Use(place, use, test)


def _asked(test: ast.Compare) -> str | None:
    if not isinstance(test.ops[0], ast.Is | ast.IsNot) or not is_none_literal(test.comparators[0]):
        return None
    return key(test.left) if isinstance(test.left, ast.Name | ast.Attribute) else None


def _is_local(module: Module, function: Function, name: str) -> bool:
    """Whether a name belongs to a function, so that no call gives it another value."""
    if any(arg.arg == name for arg, _ in parameters(function)):
        return True
    declared = any(isinstance(n, ast.Global | ast.Nonlocal) and name in n.names for n in walk(function))
    stored = any(not isinstance(held.ctx, ast.Load) for held in module.tree.named(name, function))
    return stored and not declared


def _is_settled(above: ast.If | ast.IfExp, place: str) -> bool:
    """Whether one side of a question leaves, or gives the place a value."""
    if isinstance(above, ast.IfExp):
        return False
    arms = [arm for arm in (above.body, above.orelse) if arm]
    missing = (
        above.body if isinstance(above.test, ast.Compare) and isinstance(above.test.ops[0], ast.Is) else above.orelse
    )
    if "." in place and any(isinstance(n, ast.Call) for s in missing for n in walk(s)):
        return True  # a call may make it
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
    nested = place.startswith("self.") and isinstance(statement, ast.If) and bool(statement.orelse)
    for behind in module.tree.behind(statement) if not _keeps(statement, place) else ():
        if isinstance(behind, (*FUNCTIONS, ast.ClassDef)) or not may_need(place, module.text_of(behind), reckons=True):
            found = None
        else:
            found = _open_use(module, behind, place, words, nested=nested)
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
    whole = [rf"\b{re.escape(w)}\b" for w in {*given, place}]
    return re.compile("|".join(sorted([*whole, *map(re.escape, parts)])))


def _open_use(
    module: Module, statement: ast.stmt, place: str, words: re.Pattern[str], *, nested: bool
) -> ast.AST | None:
    """Return the first use in a statement: one that always runs, or with `nested` one under other tests."""
    for node in (statement, *walk_scope(statement)):
        if any(key(needed) == place for needed in needed_by(node)):
            if not is_conditional(module, node, module.tree.parents[statement]):
                return node
            return node if nested and _knows_nothing(module, node, statement, words) else None
        if _ends(node, place):
            return None
    return None


def _knows_nothing(module: Module, node: ast.AST, statement: ast.stmt, words: re.Pattern[str]) -> bool:
    """Whether only an `if` stands above a use within a statement, and nothing that it asks may know of the place."""
    for above in (node, *module.tree.above(node)):
        if isinstance(above, ast.If):
            if words.search(ast.unparse(above.test)) and not module.tree.inside(node, above.test):
                return False
        elif isinstance(above, _APART):
            return False
        if above is statement:
            return True
    return False


def _ends(node: ast.AST, place: str) -> bool:
    """Whether a node asks about the place, gives it a value or leaves: what comes behind it is another matter."""
    if isinstance(node, _TESTING) and asks_about(node.test, place):
        return True
    return _gives(node, place) or isinstance(node, ast.Return | ast.Raise | ast.Continue | ast.Break)


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
