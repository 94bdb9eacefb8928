"""Uses of what a function of the project answers as None on some path, where its caller asks nowhere.

`return None, None` where nothing was found, or `state = None` that one branch replaces, in the function; `a, b = f()`
and `b.items()` in the caller. One call deep, in any file of the project. Left alone is what the caller may know: a
None that a parameter of the function decides, a use under a test of something else that the answer may hang on, or of
what came with it.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_answering import Answering, answering_names, none_answers, only_one
from ampguard.auditing.flow.optional_plain import body_text, is_asked, may_need, needed_by, plainly_asked
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place, assigned, constructed, method, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, is_none_literal, key, walk

_NAMES = regex(r"[A-Za-z]\w{2,}")
_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_COMMON = frozenset({"self", "None", "not", "and", "len", "args", "opt", "config", "cfg", "get", "isinstance", "int"})


@dataclass(frozen=True, eq=False)
class Answered(Use):
    """A use of an answer.

    Attributes:
        function: The function that answers.
        path: Its file.
        line: Where it answers None.
        user: The file that uses the answer.
    """

    function: str
    path: str
    line: int
    user: str


def uses_of_answers(module: Module) -> Iterator[Answered]:
    """Walk the first such use of each name that the answer of a call is bound to."""
    for node in module.tree.all(ast.Assign):
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call) or len(node.targets) != 1:
            continue
        bound = _bound(node.targets[0]) if _may_answer_none(module, call) else {}
        function = module.tree.function(node) if bound else None
        if function is None:
            continue
        uses = {name: held for name in bound.values() if (held := _held(module, function, node, name))}
        answering = _answering(module, call) if uses else None
        for position, name in bound.items() if answering is not None else ():
            none = answering.nones.get((position, len(bound))) if answering is not None and name in uses else None
            if none is not None and answering is not None:
                words = answering.words(none) | _words_of(bound.values())
                open_use = _open(module, function, node, uses[name], words)
                if open_use is not None:
                    line: int = none.lineno  # type: ignore[attr-defined]
                    where = answering.module.path
                    yield Answered(name, open_use, call, answering.function.name, where, line, module.path)


def _may_answer_none(module: Module, call: ast.Call) -> bool:
    """Whether a function of that name may answer None: known from the texts of the project."""
    name = called(call)
    return bool(name) and name in answering_names(module.project)


def _bound(target_: ast.expr) -> dict[int, str]:
    """Return the names that an answer is bound to by their position; of a single one, -1."""
    if isinstance(target_, ast.Name):
        return {-1: target_.id}
    if not isinstance(target_, ast.Tuple) or any(isinstance(e, ast.Starred) for e in target_.elts):
        return {}
    return {i: e.id if isinstance(e, ast.Name) else "_" for i, e in enumerate(target_.elts)}


def _answering(module: Module, call: ast.Call) -> Answering | None:
    words = (f"def {called(call)}(",)
    place = target(module, call, words) or _of_built(module, call, words) or only_one(module, call)
    if place is None or (key(call.func) or "").startswith("super"):
        return None
    answering = none_answers(*place)
    return answering if answering.nones else None


def _of_built(module: Module, call: ast.Call, words: tuple[str, ...]) -> Place | None:
    """Return the method of an object that a method of its own hands on: `self.graph = Graph().build(model)`."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    for value in assigned(module, owner) if owner is not None else ():
        built = value.func.value if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else None
        found = constructed(module, built, words)
        builder = method(*found, value.func.attr, words) if found is not None else None  # type: ignore[attr-defined]
        if found is not None and builder is not None and _returns_itself(builder[1]):
            return method(*found, called(call), words)
    return None


def _returns_itself(function: Function) -> bool:
    return any(isinstance(n, ast.Return) and key(n.value) == "self" for n in walk(function))


def _held(module: Module, function: Function, bound: ast.Assign, name: str) -> list[ast.Name]:
    """Return where something needs a name behind its assignment, if the function asks nothing about it."""
    text = body_text(module, function)
    if name == "_" or not may_need(name, text, reckons=True) or plainly_asked(name, text):
        return []
    end: int = bound.end_lineno or bound.lineno
    uses: list[ast.Name] = []
    for held in module.tree.named(name, function):
        if not isinstance(held.ctx, ast.Load):
            if held.lineno > end and not _is_left_none(module, held):
                break
            continue
        above = module.tree.parents[held]
        needs = held in needed_by(above) or (isinstance(above, ast.comprehension) and above.iter is held)
        if needs and held.lineno > end and module.tree.function(held) is function:
            uses.append(held)
    return uses if uses and not _is_questioned(module, function, name) else []


def _is_questioned(module: Module, function: Function, name: str) -> bool:
    """Whether a function asks about a name otherwise than for its size: `n < 4` and `n == 1` fail or miss None."""
    if not is_asked(module, function, name):
        return False
    held = [n for n in module.tree.named(name, function) if isinstance(n.ctx, ast.Load)]
    sizes = [n for n in held if _is_sized(module.tree.parents[n])]
    return not sizes or any(_asks(module, n) for n in held if n not in sizes)


def _is_sized(above: ast.AST) -> bool:
    if not isinstance(above, ast.Compare):
        return False
    of_number = isinstance(above.comparators[0], ast.Constant) and isinstance(above.comparators[0].value, int | float)
    return isinstance(above.ops[0], _ORDERS) or (of_number and isinstance(above.ops[0], ast.Eq | ast.NotEq))


_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def _asks(module: Module, node: ast.AST) -> bool:
    """Whether a node stands in a test, and is not read off there."""
    below = node
    for above in module.tree.above(node):
        if isinstance(above, ast.Attribute | ast.Subscript) and below is above.value:
            return False
        if isinstance(above, ast.BoolOp | ast.comprehension | ast.Match):
            return True
        if isinstance(above, ast.If | ast.IfExp | ast.While | ast.Assert):
            return below is above.test
        if isinstance(above, ast.stmt):
            return False
        below = above
    return False


def _is_left_none(module: Module, held: ast.Name) -> bool:
    """Whether a line gives a name None, as the other side of the test around a call does."""
    statement = module.tree.statement(held)
    if not isinstance(statement, ast.Assign):
        return False
    values = statement.value.elts if isinstance(statement.value, ast.Tuple) else [statement.value]
    return all(map(is_none_literal, values))


def _open(
    module: Module, function: Function, bound: ast.Assign, uses: list[ast.Name], words: set[str]
) -> ast.AST | None:
    """Return the first use that no test guards of what the answer may hang on, and no handler."""
    around = {ast.unparse(test) for test in _tests_above(module, bound, function)}
    for use in uses:
        if any(guarded.handlers for guarded in module.tree.handlers_around(use)):
            continue
        own = (t for t in _tests_above(module, use, function) if ast.unparse(t) not in around)
        tests = [t for t in own if not module.tree.inside(bound, module.tree.parents[t])]
        if any(not _is_foreign(test, words) for test in tests) or _is_left_before(function, bound, use, words):
            continue
        above = module.tree.parents[use]
        return use if isinstance(above, ast.comprehension) else above
    return None


def _tests_above(module: Module, node: ast.AST, function: Function) -> Iterator[ast.expr]:
    below = node
    for above in module.tree.above(node):
        if above is function:
            return
        if isinstance(above, ast.If | ast.IfExp | ast.While) and below is not above.test:
            yield above.test
        elif isinstance(above, ast.BoolOp):
            yield from above.values[: above.values.index(below)]  # type: ignore[arg-type]
        elif isinstance(above, _COMPREHENSIONS):
            yield from (test for g in above.generators for test in g.ifs if not module.tree.inside(node, g))
        below = above


def _is_foreign(test: ast.expr, words: set[str]) -> bool:
    """Whether a test cannot be tied to the answer: whether another object is there, or how often something ran."""
    if words & _words_of([ast.unparse(test)]):
        return False
    if isinstance(test, ast.BoolOp):
        return all(_is_foreign(value, words) for value in test.values)
    if isinstance(test, ast.Compare):
        counts = any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in walk(test))
        return counts or (isinstance(test.ops[0], ast.IsNot) and is_none_literal(test.comparators[0]))
    return False


def _is_left_before(function: Function, bound: ast.Assign, use: ast.AST, words: set[str]) -> bool:
    """Whether the function asks about what came with the answer, or decides it, and leaves before the use."""
    first, last = bound.lineno, use.lineno  # type: ignore[attr-defined]
    for node in walk(function):
        leaves = isinstance(node, ast.Assert) or (isinstance(node, ast.If) and isinstance(node.body[-1], _LEAVES))
        if leaves and first < node.lineno < last and words & _words_of([ast.unparse(node.test)]):  # type: ignore[attr-defined]
            return True
    return False


def _words_of(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in _NAMES.findall(text)} - _COMMON
