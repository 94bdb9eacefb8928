"""Which functions of a project answer None on some path, and where: alone, or at one place of a tuple."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.flow.optional_plain import is_stub
from ampguard.auditing.flow.optional_states import none_of_returned
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import Place
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import Function, called, is_none_literal, walk, walk_scope

_NAMES = regex(r"[A-Za-z]\w{2,}")
_DISTINCT = 8
"""Letters of a method's name from which on one definition in a project is taken to be the one that is called."""


@dataclass(frozen=True, eq=False)
class Answering:
    """A function that answers None on some path.

    Attributes:
        module: Its file.
        function: The function.
        nones: By (position, length) of the answer, (-1, 1) for one that is no tuple: what makes it None.
    """

    module: Module
    function: Function
    nones: dict[tuple[int, int], ast.AST]

    def words(self, none: ast.AST) -> set[str]:
        """Return the words of what decides that the answer is None, with what its names are given."""
        found: set[str] = set()
        for test in _deciding(self.module, self.function, none):
            for node in walk(test):
                if isinstance(node, ast.Name):
                    values = self.module.names.values(node.id, node)
                    found.update(word for value in values for word in _NAMES.findall(ast.unparse(value)))
            found.update(_NAMES.findall(ast.unparse(test)))
        return found - {"self", "None", "not", "and", "len", "get", "torch", "list", "any", "all", "model", "config"}


@dataclass(frozen=True, eq=False)
class _Index:
    """What the texts of a project tell: where functions stand that may answer None, and how often names are defined."""

    answering: dict[str, str]
    defined: Counter[str]


def answering_names(project: Project) -> dict[str, str]:
    """Return the names of functions that may answer None, with a file that defines one, without parsing any."""
    return _index(project).answering


def only_one(module: Module, call: ast.Call) -> Place | None:
    """Return the method that a call can only mean because the project has one of that name."""
    name, index = called(call), _index(module.project)
    distinct = isinstance(call.func, ast.Attribute) and "_" in name and len(name) > _DISTINCT
    if not distinct or index.defined[name] != 1:
        return None
    where = module.project.module(index.answering[name])
    found = [f for f in where.functions if f.name == name] if where is not None else []
    return (where, found[0]) if where is not None and len(found) == 1 else None


def _index(project: Project) -> _Index:
    if "answers of functions" not in project.memo:
        project.memo["answers of functions"] = _indexed(project)
    found: _Index = project.memo["answers of functions"]
    return found


def _indexed(project: Project) -> _Index:
    index = _Index({}, Counter())
    for path, text in project.texts():
        index.defined.update(_DEFINED.findall(text))
        if "= None\n" in text or _RETURNED.search(text):
            for name in _answering_in(text):
                index.answering.setdefault(name, path)
    return index


_DEFINED = regex(r"def (\w+)")
_RETURNED = regex(r"return (?:[^\n]*\W)?None\b")
"""Patterns that start with fixed text are found as fast as text."""

_TELLING = (("def", _DEFINED), ("return", regex(r"return\b([^\n]*)")), ("none", regex(r"= None\n")))


def _answering_in(text: str) -> set[str]:
    """Return the names of functions whose text returns None, or a name that one of its lines sets to None."""
    found: set[str] = set()
    around: list[tuple[int, str, set[str]]] = []
    for _, depth, kind, said in sorted(_lines_that_tell(text)):
        while around and around[-1][0] >= depth:
            around.pop()
        if kind == "def":
            around.append((depth, said, {"None"}))
        elif around and kind == "return":
            if not around[-1][2].isdisjoint(_NAMES.findall(said)):
                found.add(around[-1][1])
        elif around:
            around[-1][2].add(said.partition(":")[0].strip())
    return found


def _lines_that_tell(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Walk heads of functions, returns, and what is set to None: where, how deep, which, and what the line says."""
    for kind, pattern in _TELLING:
        for matched in pattern.finditer(text):
            start = text.rfind("\n", 0, matched.start()) + 1
            before = text[start : matched.start()]
            bare = before.lstrip(" \t")
            if kind == "none" and bare:
                yield start, len(before) - len(bare), kind, bare
            elif kind != "none" and bare in ("", "async "):
                yield start, len(before) - len(bare), kind, matched[1]


def none_answers(module: Module, function: Function) -> Answering:
    """Return where a function answers None that nothing it is given decides, and a value elsewhere."""
    return module.once(("none answers", function), lambda: Answering(module, function, _nones(module, function)))


def _nones(module: Module, function: Function) -> dict[tuple[int, int], ast.AST]:
    own = list(walk_scope(function))
    if is_stub(function) or any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own):
        return {}
    returns = [n for n in own if isinstance(n, ast.Return)]
    found: dict[tuple[int, int], ast.AST] = {}
    valued: set[tuple[int, int]] = set()
    for statement in returns:
        for place, value in _answers(statement):
            none = _none_of(function, statement, value)
            if none is None or isinstance(value, ast.Name):
                valued.add(place)
            if none is not None and not _is_decided_outside(module, function, none):
                found.setdefault(place, none)
    return {place: none for place, none in found.items() if place in valued}


def _answers(statement: ast.Return) -> list[tuple[tuple[int, int], ast.expr | None]]:
    value = statement.value
    if isinstance(value, ast.Tuple):
        return [((i, len(value.elts)), element) for i, element in enumerate(value.elts)]
    return [((-1, 1), value)]


def _none_of(function: Function, statement: ast.Return, value: ast.expr | None) -> ast.AST | None:
    """Return what makes an answer None: the `return` itself, or the line that leaves its name so."""
    if is_none_literal(value):
        return statement
    if isinstance(value, ast.Name):
        return none_of_returned(function, value.id).get(statement)
    return None


def _is_decided_outside(module: Module, function: Function, none: ast.AST) -> bool:
    """Whether a parameter, or a setting of the object, decides alone that the answer is None."""
    given = {arg.arg for arg, _ in parameters(function)}
    tests = list(_deciding(module, function, none))
    if any(_hangs_on(test, given) or _AROUND.search(ast.unparse(test)) for test in tests):
        return True
    return any(isinstance(above, ast.ExceptHandler) for above in module.tree.above(none))


_AROUND = regex(r"is_initialized|is_available|rank\b|world_size|is_main|is_master|\bVERBOSE\b|has_\w+|_available\b")
"""Tests for what is the same for the whole run: which ranks there are, what is installed."""


def _hangs_on(test: ast.expr, given: set[str]) -> bool:
    if isinstance(test, ast.BoolOp):
        return any(_hangs_on(value, given) for value in test.values)
    if isinstance(test, ast.UnaryOp):
        return _hangs_on(test.operand, given)
    if isinstance(test, ast.Compare):
        return any(_hangs_on(value, given) for value in (test.left, *test.comparators))
    if isinstance(test, ast.Call) and called(test) in ("isinstance", "hasattr", "getattr", "callable"):
        return True
    while isinstance(test, ast.Attribute | ast.Subscript):
        test = test.value
    return isinstance(test, ast.Name) and test.id in given


def _deciding(module: Module, function: Function, none: ast.AST) -> Iterator[ast.expr]:
    """Walk the tests above what makes an answer None, and those above what gives its name a value instead.

    For a `return` that stands under none: the tests before it that return something else.
    """
    nodes = [none]
    if isinstance(none, ast.Return) and none in function.body:
        before = function.body[: function.body.index(none)]
        yield from (statement.test for statement in before if isinstance(statement, ast.If))
    bound = none.targets[0] if isinstance(none, ast.Assign) else getattr(none, "target", None)
    if isinstance(bound, ast.Name):
        held = module.tree.named(bound.id, function)
        nodes += [module.tree.statement(n) for n in held if not isinstance(n.ctx, ast.Load)]
    for node in nodes:
        for above in module.tree.above(node):
            if above is function:
                break
            if isinstance(above, ast.If | ast.While):
                yield above.test
