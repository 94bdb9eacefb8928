"""Uses of what a path of its own function leaves None, for names of any kind.

A name that one line sets to None, or a parameter that is None by default and that the function asks about, reaches
something that fails without it. The paths are those of `optional`; what is left alone is what they cannot tell: a use
under a test of something else, a name that a loop may set, one that a call is asked about (`check(x)`).
"""

import ast
import re
from collections.abc import Iterable, Iterator

from ampguard.auditing.flow.lowering import group
from ampguard.auditing.flow.optional import ABOUT, Use, is_thing, reached_as_none, tested_in_method
from ampguard.auditing.flow.optional_plain import (
    admits_none,
    asks_about,
    body_text,
    is_stub,
    may_need,
    needed_by,
    plainly_asked,
)
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk

_Uses = dict[ast.AST, str]
_TESTING = (ast.If, ast.IfExp, ast.While, ast.BoolOp)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def uses_on_paths(module: Module) -> Iterator[Use]:
    """Walk the first use of each such name in each function."""
    if "None" not in module.text:
        return
    grouped = module.once("names set to None", lambda: group(module, _set_to_none(module)))
    for function in module.functions:
        origins = dict(_origins(module, function, grouped.get(function, ())))  # a parameter comes last, and wins
        uses = _open_uses(module, function, origins) if origins else {}
        kept = {name: origins[name] for name in set(uses.values()) if _is_plain(module, function, name)}
        uses = {node: name for node, name in uses.items() if name in kept}
        if not uses or is_stub(function):
            continue
        told: set[str] = set()
        for node, place in reached_as_none(module, function, kept, uses):
            if place not in told:
                told.add(place)
                yield Use(place, node, kept[place])


def _set_to_none(module: Module) -> list[ast.AST]:
    nodes: list[ast.Assign | ast.AnnAssign] = module.tree.all(ast.Assign, ast.AnnAssign)
    return [node for node in nodes if node.value is not None and is_none_literal(node.value)]


def _origins(module: Module, function: Function, nones: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Walk (name, what leaves it None), as far as the text shows that something needs it."""
    tested = tested_in_method(module, function)
    given = [(arg, default) for arg, default in parameters(function) if arg.arg in tested and not is_thing(arg.arg)]
    text = body_text(module, function) if nones or given else ""
    for node in nones:
        for bound in node.targets if isinstance(node, ast.Assign) else [node.target]:  # type: ignore[attr-defined]
            if isinstance(bound, ast.Name) and not is_thing(bound.id) and may_need(bound.id, text, reckons=True):
                yield bound.id, node
    for arg, default in given:
        if (default is not None and not is_none_literal(default)) or not may_need(arg.arg, text, reckons=True):
            continue
        optional = default is not None or admits_none(arg.annotation)
        if optional or (plainly_asked(arg.arg, text) and _is_asked_first(arg.arg, text)):
            yield arg.arg, arg


def _is_asked_first(name: str, text: str) -> bool:
    """Whether a name is asked about before it gets a value: of a later one, the question tells nothing."""
    bound = re.search(
        rf"^[ \t]*(?:\w+, *)*{re.escape(name)}(?:, *\w+)*[ \t]*=[^=](?!{re.escape(name)}\.)", text, re.MULTILINE
    )
    return bound is None or plainly_asked(name, text[: bound.start()])


def _open_uses(module: Module, function: Function, origins: dict[str, ast.AST]) -> _Uses:
    """Return what fails without one of the names and stands under no test of something else."""
    found: _Uses = {}
    for name, origin in origins.items():
        settled = _settled_at(function, name, origin)
        for held in module.tree.named(name, function):
            node = module.tree.parents[held]
            if held.lineno > settled or module.tree.scope(held) is not function or held not in needed_by(node):
                continue
            if not _is_open(module, node, name, origin, function):
                continue
            if not isinstance(origin, ast.arg) or _is_asked_above(module, node, name, function):
                found.setdefault(node.iter if isinstance(node, ast.For | ast.comprehension) else node, name)
    return found


def _settled_at(function: Function, name: str, origin: ast.AST) -> float:
    """Return the line from which a name has a value on every path, as the function's own statements show at once.

    `if x is None: x = ...` (or that leaves), and `x = ...` itself: the paths would tell the same, and cost more.
    """
    first: int = 0 if isinstance(origin, ast.arg) else origin.end_lineno  # type: ignore[attr-defined]
    for statement in function.body:
        if statement.lineno > first and _settles(statement, name):
            return statement.end_lineno or statement.lineno
    return float("inf")


def _settles(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.Assign):
        return any(key(t) == name for t in statement.targets) and isinstance(statement.value, ast.Call)
    if not isinstance(statement, ast.If) or not _asks_for_none(statement.test, name):
        return False
    given = (s for s in statement.body if isinstance(s, ast.Assign) and any(key(t) == name for t in s.targets))
    return leaves(statement.body) or any(not is_none_literal(s.value) for s in given)


def _asks_for_none(test: ast.expr, name: str) -> bool:
    """Whether a test is `x is None` or `not x`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return key(test.operand) == name
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.Is)
        and is_none_literal(test.comparators[0])
        and key(test.left) == name
    )


def _is_open(module: Module, node: ast.AST, name: str, origin: ast.AST, function: Function) -> bool:
    """Whether nothing but tests of the name decides whether a node runs, and nothing catches what it raises."""
    if any(guarded.handlers for guarded in module.tree.handlers_around(node)):
        return False
    below = node
    for above in module.tree.above(node):
        if above is function:
            return not _is_left_before(node, name, function)
        if isinstance(
            above, (*FUNCTIONS, ast.Lambda, ast.ExceptHandler, ast.Match, ast.comprehension, *_COMPREHENSIONS)
        ):
            return False
        if isinstance(above, ast.For) and below is not above.iter and _is_about(above.iter, name):
            return False  # over nothing, where there is nothing
        if not isinstance(above, _TESTING) or module.tree.inside(origin, above) or _asks_within(below, name):
            below = above
            continue
        if _is_guarded(above, below, name) or not all(_is_about(test, name) for test in _tests_before(above, below)):
            return False
        below = above
    return False


def _is_guarded(above: ast.If | ast.IfExp | ast.While | ast.BoolOp, below: ast.AST, name: str) -> bool:
    """Whether the test right above runs this only where the name is not None: what the paths would tell, told early."""
    if isinstance(above, ast.BoolOp):
        asks = _is_sure if isinstance(above.op, ast.And) else _asks_for_none
        return any(asks(value, name) for value in _tests_before(above, below))
    if below is above.test:
        return False
    in_body = below is above.body if isinstance(above, ast.IfExp) else below in above.body
    return _is_sure(above.test, name) if in_body else _asks_for_none(above.test, name)


def _is_sure(test: ast.expr, name: str) -> bool:
    """Whether a test holds only where the name is not None: `x`, `x is not None`, or these and more."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_is_sure(value, name) for value in test.values)
    if isinstance(test, ast.Compare):
        asks = isinstance(test.ops[0], ast.IsNot) and is_none_literal(test.comparators[0])
        return asks and key(test.left) == name
    return key(test) == name


def _is_left_before(use: ast.AST, name: str, function: Function) -> bool:
    """Whether a statement of the function leaves it before the use for a flag, a rank or a mode."""
    for statement in function.body:
        if statement.lineno >= use.lineno:  # type: ignore[attr-defined]
            return False
        leaves = isinstance(statement, ast.If) and isinstance(statement.body[-1], ast.Return | ast.Raise)
        if leaves and not _is_about(statement.test, name) and ABOUT.search(ast.unparse(statement.test)):  # type: ignore[attr-defined]
            return True
    return False


def _is_asked_above(module: Module, use: ast.AST, name: str, function: Function) -> bool:
    """Whether the function asks about a parameter too late, or under no other tests than those above the use."""
    deciding = set(_deciders(module, use, function))
    line: int = use.lineno  # type: ignore[attr-defined]
    return any(
        node.lineno > line or deciding.issuperset(_deciders(module, node, function))  # type: ignore[attr-defined]
        for node in _asking(module, name, function)
    )


def _asking(module: Module, name: str, function: Function) -> list[ast.AST]:
    """Return the tests of a function that ask about a name."""
    question = ("asking about", function, name)
    return module.once(question, lambda: list(dict.fromkeys(_tests_of(module, name, function))))


def _tests_of(module: Module, name: str, function: Function) -> Iterator[ast.AST]:
    for held in module.tree.named(name, function):
        below: ast.AST = held
        for above in module.tree.above(held) if module.tree.scope(held) is function else ():
            asks = isinstance(above, ast.If | ast.IfExp | ast.Assert | ast.While) and below is above.test
            if asks and _is_about(above.test, name):  # type: ignore[attr-defined]
                yield above
            if isinstance(above, ast.stmt):
                break
            below = above


def _deciders(module: Module, node: ast.AST, function: Function) -> Iterator[tuple[ast.AST, bool]]:
    """Walk the tests above a node, and on which side of them it stands."""
    below = node
    for above in module.tree.above(node):
        if above is function:
            return
        if isinstance(above, ast.If | ast.While) and below is not above.test:
            yield above, below in above.body
        below = above


def _asks_within(below: ast.AST, name: str) -> bool:
    """Whether a statement asks about the name itself: then the test above it does not settle the matter."""
    return isinstance(below, ast.If) and asks_about(below.test, name)


def _tests_before(above: ast.If | ast.IfExp | ast.While | ast.BoolOp, below: ast.AST) -> list[ast.expr]:
    """Return what decides whether `below` runs: nothing for the first part of a test."""
    if isinstance(above, ast.BoolOp):
        return above.values[: above.values.index(below)]  # type: ignore[arg-type]
    return [] if below is above.test else [above.test]


def _is_about(test: ast.AST, name: str) -> bool:
    names = any(isinstance(n, ast.Name) and n.id == name for n in walk(test))
    return names and not any(isinstance(n, ast.Attribute) and n.attr == "__class__" for n in walk(test))


def _is_plain(module: Module, function: Function, name: str) -> bool:
    """Whether a name is bound by plain assignments alone, none in a loop, and tested for truth or None alone."""
    shared: list[ast.Nonlocal | ast.Global] = module.tree.all(ast.Nonlocal, ast.Global)
    if any(name in node.names and module.tree.inside(node, function) for node in shared):
        return False
    for node in module.tree.named(name, function):
        if not isinstance(node.ctx, ast.Load):
            if not _is_plainly_bound(module, node, function):
                return False
        elif _is_asked_otherwise(module, node):
            return False
    return True


def _is_plainly_bound(module: Module, node: ast.Name, function: Function) -> bool:
    statement = module.tree.statement(node)
    plain = isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign)
    return plain and module.tree.function(node) is function and not any(True for _ in module.tree.loops(node))


def _is_asked_otherwise(module: Module, node: ast.Name) -> bool:
    """Whether a test holds the name in another way than for its truth, its None-ness or what it needs."""
    above = module.tree.parents[node]
    if isinstance(above, ast.Compare):
        is_none = isinstance(above.ops[0], ast.Is | ast.IsNot) and is_none_literal(above.comparators[0])
        if is_none and _is_joined(module, above):
            return True
        return not is_none and key(node) not in map(key, needed_by(above))
    if not isinstance(above, ast.Call | ast.Tuple | ast.List | ast.Starred | ast.keyword) or node in needed_by(above):
        return False
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, ast.If | ast.IfExp | ast.While | ast.Assert):
            return below is at.test
        if isinstance(at, ast.stmt):
            return isinstance(at, ast.Expr) and isinstance(above, ast.Call) and "check" in ast.unparse(above.func)
        below = at
    return False


def _is_joined(module: Module, question: ast.Compare) -> bool:
    """Whether one test asks about two names: `a is None and b is None`, `(a is None) ^ (b is None)`."""
    top: ast.AST = question
    while isinstance(module.tree.parents[top], ast.BoolOp | ast.BinOp | ast.UnaryOp | ast.Compare):
        top = module.tree.parents[top]
    nones = [n for n in walk(top) if isinstance(n, ast.Compare) and any(map(is_none_literal, n.comparators))]
    return len({key(n.left) for n in nones}) > 1 or isinstance(top, ast.BinOp)
