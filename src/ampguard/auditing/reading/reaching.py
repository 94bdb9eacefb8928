"""Which definitions of a name, `self.x` or `d["k"]` may reach a place in its function, and on what kind of way.

Works backward through the structured code: blocks, branches, loops with `continue` and `break`, `try`, `with`. What
a definition may reach only on some ways is graded (`Way`), because code in which a loop never runs is another matter
than code in which each pass may skip a statement. Exceptions out of the middle of a statement, `del` and what other
threads do are left out; what calls may change is reported as a "touch".
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from ampguard.auditing.reading.guards import Test
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Loop, Scope, called, key, receiver, walk, walk_scope

_ADDS = frozenset({"append", "add", "extend", "insert", "update", "appendleft", "setdefault", "push", "put"})
_ONLY_READ = frozenset(
    {"len", "print", "sum", "min", "max", "sorted", "list", "tuple", "set", "zip", "enumerate", "range", "iter", "str"}
    | {"mean", "std", "median", "array", "stack", "cat", "tensor", "dump", "dumps", "isinstance", "any", "all", "float"}
    | {"int", "repr", "format", "join", "info", "debug", "warning", "error", "save", "tqdm", "bool", "abs", "round"}
    | {"items", "keys", "values", "get", "copy", "index", "count", "write", "map", "filter", "dict", "hasattr", "type"}
)


class Way(IntEnum):
    """The way on which a definition reaches a place; greater needs more luck."""

    PLAIN = 0
    """On a way through loops that run, past conditions that the loop's own items decide."""
    CHOSEN = 1
    """Only past a condition that is decided before the loop, or outside any."""
    NO_PASS = 2
    """Only where a loop does not run, or is left on its first pass."""


@dataclass(frozen=True)
class Definition:
    """One definition that may reach the place.

    Attributes:
        kind: "assign" (the name is `value`), "item" (it is a part of `value`, at `index` where known), "object" (what
            the name is an attribute or item of is `value`), "add" (something is added to what it was: `+=`,
            `append`), "change" (another augmented assignment), "touch" (a call that may change it; earlier
            definitions are reported too), "loop" (a loop's target over `value`), "start" (it comes from outside the
            function), "unknown".
        node: The statement; for "start" the scope.
        value: See `kind`.
        index: The position in an unpacking, else None.
        way: How it comes to the place.
        conditions: Tests that hold on that way, because the other branch defines the name anew.
    """

    kind: Literal["assign", "item", "object", "add", "change", "touch", "loop", "start", "unknown"]
    node: ast.AST
    value: ast.expr | None = None
    index: int | None = None
    way: Way = Way.PLAIN
    conditions: tuple[Test, ...] = ()

    def along(self, way: Way, conditions: tuple[Test, ...] = ()) -> "Definition":
        """Return the definition where it comes on a longer way."""
        if way <= self.way and not conditions:
            return self
        return replace(self, way=max(self.way, way), conditions=self.conditions + conditions)


@dataclass(frozen=True)
class _Passage:
    """How what was before a piece of code gets through it: on which way, under which conditions."""

    way: Way = Way.PLAIN
    conditions: tuple[Test, ...] = ()


_THROUGH = _Passage()

_Effect = tuple[list[Definition], _Passage | None]
"""Definitions in a piece of code that reach its end, and how earlier ones get through it; None: they do not."""

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_JUMPS = frozenset({ast.Return, ast.Raise, ast.Continue, ast.Break})
_SIMPLE = frozenset(
    {ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Assert, ast.Pass, ast.Delete, ast.Global, ast.Nonlocal}
    | {ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}
)
"""Statements without a block of their own in the flow: one gets past them where they do not name the place."""


def reaching(module: Module, places: tuple[str, ...], node: ast.AST) -> list[Definition]:
    """Return the definitions of a place (a `key`) that may reach `node`, nearest first, one for each statement.

    With several places, what is asked is which definitions reach the node on a way on which none of them is defined
    anew: two counters that are both still zero.
    """
    return module.once(("reaching", places, node), lambda: _backward(module, places).before(node))


def _backward(module: Module, places: tuple[str, ...]) -> "_Backward":
    """Return the search for these places; what it has found out about a statement serves every node behind it."""
    return module.once(("backward", places), lambda: _Backward(module, places))


class _Backward:
    def __init__(self, module: Module, places: tuple[str, ...]) -> None:
        self.module = module
        self.places = frozenset(places)
        self.roots = frozenset(place.split(".")[0].split("[")[0] for place in places)
        self.spots = self.roots | self.places
        first, *others = (_naming(module, root) for root in self.roots)
        self.named = first.union(*others) if others else first
        self._effects: dict[ast.stmt, _Effect] = {}
        self._silent: dict[ast.stmt, _Passage | None] = module.once("passages", dict)

    def before(self, node: ast.AST) -> list[Definition]:
        found: list[Definition] = []
        passage: _Passage | None = _THROUGH
        below = node
        for at in self.module.tree.above(node):
            if passage is None:
                break
            bound = self._bound_inside_expression(at, below)
            if bound is not None:
                found.append(bound.along(passage.way, passage.conditions))
                passage = None
                break
            passage = self._through_parent(at, below, passage, found)
            if isinstance(at, Scope) and not isinstance(at, ast.Lambda):
                if passage is not None:
                    found.append(Definition("start", at, way=passage.way, conditions=passage.conditions))
                break
            below = at
        return _nearest_ways(found)

    def _bound_inside_expression(self, at: ast.AST, below: ast.AST) -> Definition | None:
        if isinstance(at, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            for generator in at.generators:
                if generator is not below and self._binds(generator.target):
                    return Definition("loop", at, generator.iter)
        if isinstance(at, ast.Lambda) and any(a.arg in self.roots for a in at.args.args):
            return Definition("unknown", at)
        return None

    def _through_parent(
        self, at: ast.AST, below: ast.AST, passage: _Passage, found: list[Definition]
    ) -> _Passage | None:
        """Collect what stands before `below` in `at`, then what `at` itself brings to it."""
        left: _Passage | None = passage
        for name in ("body", "orelse", "finalbody"):
            block = getattr(at, name, None)
            if isinstance(block, list) and below in block:
                left = self._collect(self.block(block[: block.index(below)]), passage, found)
        if left is None:
            return None
        if isinstance(at, ast.Try | ast.TryStar) and below not in at.body:
            earlier = [*at.body, *(at.orelse if below in at.finalbody else ())]
            definitions, through = self.block(earlier)
            partly = isinstance(below, ast.ExceptHandler) or below in at.finalbody
            return self._collect((definitions, _Passage() if partly else through), left, found)
        if isinstance(at, Loop) and (below in at.body or (isinstance(at, ast.While) and below is at.test)):
            if not isinstance(at, ast.While) and self._binds(at.target):
                found.append(Definition("loop", at, at.iter).along(left.way, left.conditions))
                return None
            again, _ = self._pass_of(at)
            found.extend(d.along(left.way, left.conditions) for d in again)
        if isinstance(at, ast.With | ast.AsyncWith) and below in at.body and self._opens(at):
            found.append(Definition("unknown", at))
            return None
        return left

    def _collect(self, effect: _Effect, passage: _Passage, found: list[Definition]) -> _Passage | None:
        definitions, through = effect
        found.extend(d.along(passage.way, passage.conditions) for d in definitions)
        return None if through is None else _joined(passage, through)

    def block(self, statements: list[ast.stmt]) -> _Effect:
        """Return the effect of statements one after the other."""
        found: list[Definition] = []
        passage: _Passage | None = _THROUGH
        named = self.named
        for statement in reversed(statements):
            if passage is None:
                break
            if statement in named:
                passage = self._collect(self.statement(statement), passage, found)
            elif statement.__class__ not in _SIMPLE:
                through = self._past(statement)
                passage = None if through is None else _joined(passage, through)
        return found, passage

    def statement(self, statement: ast.stmt) -> _Effect:
        """Return the effect of one statement, worked out once."""
        if statement not in self._effects:
            self._effects[statement] = self._statement(statement)
        return self._effects[statement]

    def _past(self, statement: ast.stmt) -> _Passage | None:
        """Return how one gets past a statement that names none of the places: the same for all such places."""
        if statement not in self._silent:
            self._silent[statement] = self._statement(statement)[1]
        return self._silent[statement]

    def _statement(self, statement: ast.stmt) -> _Effect:
        kind = statement.__class__
        if kind in _SIMPLE:
            return self._simple(statement)
        if kind in _JUMPS:
            return [], None
        if isinstance(statement, ast.If):
            return self._branch(statement)
        if isinstance(statement, _LOOPS):
            return self._loop(statement)
        if isinstance(statement, (ast.Try, ast.TryStar)):
            return self._try(statement)
        if isinstance(statement, (ast.With, ast.AsyncWith)):
            definitions, passage = self.block(statement.body)
            if self._opens(statement):
                return (definitions if passage is None else [*definitions, Definition("unknown", statement)]), None
            return definitions, passage
        if isinstance(statement, ast.Match):
            effects = [self.block(case.body) for case in statement.cases]
            return [d for definitions, _ in effects for d in definitions], _Passage(Way.CHOSEN)
        return self._simple(statement)  # a kind of statement that is newer than this file

    def _branch(self, statement: ast.If) -> _Effect:
        yes, no = self.block(statement.body), self.block(statement.orelse)
        found = [*yes[0], *no[0]]
        if yes[1] is not None and no[1] is not None:
            return found, min(yes[1], no[1], key=lambda p: p.way)
        left, truth = (yes[1], True) if yes[1] is not None else (no[1], False)
        if left is None:
            return found, None
        leaves = not (yes[0] if truth is False else no[0])  # the other branch goes away and defines nothing
        way = left.way if leaves else max(left.way, self._choice(statement))
        return found, _Passage(way, (*left.conditions, (statement.test, truth)))

    def _choice(self, statement: ast.If) -> Way:
        """Return whether the items of the loop around it decide a branch, or what was known before."""
        return self.module.once(("choice", statement), lambda: self._choose(statement))

    def _choose(self, statement: ast.If) -> Way:
        loop = next(self.module.tree.loops(statement), None)
        if loop is None:
            return Way.CHOSEN
        changing = self.module.once(("changing", loop), lambda: _changing(loop))
        uses = {n.id for n in walk(statement.test) if isinstance(n, ast.Name)}
        return Way.PLAIN if uses & changing and not is_expected(statement.test) else Way.CHOSEN

    def _loop(self, loop: Loop) -> _Effect:
        found, passage = self._pass_of(loop)
        early: list[_Passage] = []
        for jump in _jumps(self.module, loop, ast.Break):
            definitions, through = self._back_to(jump, loop)
            found = [*found, *definitions]
            early += [through] if through is not None else []
        if not isinstance(loop, ast.While) and self._binds(loop.target):
            return [*found, Definition("loop", loop, loop.iter)], _Passage(Way.NO_PASS)
        if passage is not None:
            return found, passage
        if early or not _runs(loop):
            return found, _Passage(Way.NO_PASS)
        return found, None

    def _pass_of(self, loop: Loop) -> _Effect:
        """Return the effect of one whole pass: to the end of the body, or to a `continue`."""
        found, passage = self.block(loop.body)
        for jump in _jumps(self.module, loop, ast.Continue):
            definitions, through = self._back_to(jump, loop)
            found = [*found, *definitions]
            if through is not None and (passage is None or through.way < passage.way):
                passage = through
        return list(found), passage

    def _back_to(self, node: ast.AST, loop: Loop) -> _Effect:
        """Return what reaches a jump in the loop from the start of its body."""
        found: list[Definition] = []
        passage: _Passage | None = _THROUGH
        below = node
        for at in self.module.tree.above(node):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(at, name, None)
                if passage is not None and isinstance(block, list) and below in block:
                    passage = self._collect(self.block(block[: block.index(below)]), passage, found)
            if passage is None or at is loop:
                break
            if isinstance(at, ast.If):
                passage = _Passage(max(passage.way, self._choice(at)), passage.conditions)
            below = at
        return found, passage

    def _try(self, statement: ast.Try | ast.TryStar) -> _Effect:
        found, passage = self.block([*statement.body, *statement.orelse])
        for handler in statement.handlers:
            definitions, through = self.block(handler.body)
            found = [*found, *definitions]
            if through is not None:
                found = [*found, *self.block(statement.body)[0]]
                if passage is None or passage.way > Way.PLAIN:
                    passage = _THROUGH
        if statement.finalbody and passage is not None:
            definitions, through = self.block(statement.finalbody)
            found = [*definitions, *found]
            passage = None if through is None else _joined(through, passage)
        return found, passage

    def _simple(self, statement: ast.stmt) -> _Effect:
        for target, value in _assignments(statement):
            made = self._assigned(target, value, statement)
            if made is not None:
                return [made], None
        if isinstance(statement, ast.AugAssign):
            return self._augmented(statement)
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            return ([Definition("unknown", statement)], None) if statement.name in self.roots else ([], _Passage())
        if isinstance(statement, ast.Import | ast.ImportFrom | ast.Delete | ast.Global | ast.Nonlocal):
            return [], _THROUGH
        return self._calls(statement)

    def _assigned(self, target: ast.expr, value: ast.expr | None, statement: ast.stmt) -> Definition | None:
        place = key(target)
        if place in self.places:
            return Definition("assign", statement, value)
        if place is not None and any(p.startswith((f"{place}.", f"{place}[")) for p in self.places):
            return Definition("object", statement, value)
        if isinstance(target, ast.Subscript) and key(target.value) in self.places:
            return Definition("add", statement, value)
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else ()
            paired = len(parts) == len(target.elts) and not any(
                isinstance(p, ast.Starred) for p in (*parts, *target.elts)
            )
            for position, element in enumerate(target.elts):
                inner = element.value if isinstance(element, ast.Starred) else element
                made = self._assigned(inner, parts[position] if paired else value, statement)
                if made is not None:
                    return made if paired else Definition("item", statement, value, position)
        return None

    def _augmented(self, statement: ast.AugAssign) -> _Effect:
        place = key(statement.target)
        if place in self.places:
            kind: Literal["add", "change"] = "add" if isinstance(statement.op, ast.Add) else "change"
            return [Definition(kind, statement, statement.value)], None
        if isinstance(statement.target, ast.Subscript) and key(statement.target.value) in self.places:
            return [Definition("add", statement, statement.value)], None
        return self._calls(statement)

    def _calls(self, statement: ast.stmt) -> _Effect:
        """What calls in the statement do to the place: fill it, or perhaps change it."""
        touched: list[Definition] = []
        for node in walk_scope(statement):
            if isinstance(node, ast.NamedExpr) and node.target.id in self.places:
                return [Definition("assign", statement, node.value)], None
            if not isinstance(node, ast.Call):
                continue
            owner, name = receiver(node), called(node)
            at = key(owner) if owner is not None else None
            if at in self.places and name in _ADDS:
                return [Definition("add", statement, node.args[0] if node.args else None)], None
            if at in self.places and name == "clear":
                return [Definition("assign", statement, ast.List(elts=[], ctx=ast.Load()))], None
            if name not in _ONLY_READ and (at in self.spots or self._is_given(node)):
                touched = [Definition("touch", statement)]
        return touched, _THROUGH

    def _is_given(self, call: ast.Call) -> bool:
        given = [*call.args, *(k.value for k in call.keywords)]
        return any(key(a) in self.spots for a in given)

    def _opens(self, statement: ast.With | ast.AsyncWith) -> bool:
        return any(i.optional_vars is not None and self._binds(i.optional_vars) for i in statement.items)

    def _binds(self, target: ast.AST) -> bool:
        return any(
            isinstance(n, ast.Name | ast.Attribute | ast.Subscript)
            and isinstance(n.ctx, ast.Store)
            and key(n) in self.spots
            for n in walk(target)
        )


def _assignments(statement: ast.stmt) -> Iterable[tuple[ast.expr, ast.expr | None]]:
    if isinstance(statement, ast.Assign):
        return [(target, statement.value) for target in statement.targets]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [(statement.target, statement.value)]
    return ()


def _joined(later: _Passage, earlier: _Passage) -> _Passage:
    if earlier.way is Way.PLAIN and not earlier.conditions:
        return later
    return _Passage(max(later.way, earlier.way), later.conditions + earlier.conditions)


def _naming(module: Module, name: str) -> frozenset[ast.AST]:
    """Return the statements (and what is around them) that hold the name at all; most statements do not."""
    return module.once(("naming", name), lambda: _all_naming(module, name))


def _all_naming(module: Module, name: str) -> frozenset[ast.AST]:
    named: dict[str, list[ast.AST]] = module.once("definitions by name", lambda: _by_name(module))
    found: set[ast.AST] = set()
    for node in (*module.tree.named(name, module.root), *named.get(name, ())):
        for at in (node, *module.tree.above(node)):
            if at in found:
                break
            found.add(at)
    return frozenset(found)


def _by_name(module: Module) -> dict[str, list[ast.AST]]:
    found: dict[str, list[ast.AST]] = {}
    for node in module.tree.all(*FUNCTIONS, ast.ClassDef):
        found.setdefault(node.name, []).append(node)
    return found


def _jumps(module: Module, loop: Loop, kind: type[ast.Break] | type[ast.Continue]) -> list[ast.AST]:
    """Return the `break`s or `continue`s of this loop itself, the last first."""
    jumps: dict[ast.AST, list[ast.AST]] = module.once(("jumps", kind), lambda: _by_loop(module, kind))
    return jumps.get(loop, [])


def _by_loop(module: Module, kind: type[ast.Break] | type[ast.Continue]) -> dict[ast.AST, list[ast.AST]]:
    found: dict[ast.AST, list[ast.AST]] = {}
    for jump in reversed(module.tree.all(kind)):
        below: ast.AST = jump
        for at in module.tree.above(jump):
            if isinstance(at, (*_LOOPS, *FUNCTIONS, ast.ClassDef)):
                if isinstance(at, _LOOPS) and below in at.body:
                    found.setdefault(at, []).append(jump)
                break
            below = at
    return found


def _runs(loop: Loop) -> bool:
    """Whether the loop runs at least once, whatever comes."""
    if isinstance(loop, ast.While):
        return isinstance(loop.test, ast.Constant) and bool(loop.test.value)
    over = loop.iter
    if isinstance(over, ast.Tuple | ast.List | ast.Set):
        return bool(over.elts)
    if isinstance(over, ast.Call) and called(over) == "range":
        return all(isinstance(a, ast.Constant) for a in over.args) and len(over.args) == 1 and over.args[0].value > 0  # type: ignore[attr-defined]
    return False


def is_expected(test: ast.expr) -> bool:
    """Whether a condition is of a kind that does not leave out every item: `x is None`, the last index, `i == j`."""
    if isinstance(test, ast.BoolOp):
        return any(is_expected(value) for value in test.values)
    if isinstance(test, ast.Attribute):
        return test.attr in ("requires_grad", "grad")
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return False
    left, right = test.left, test.comparators[0]
    if isinstance(test.ops[0], ast.Is | ast.IsNot):
        return isinstance(right, ast.Constant) and right.value is None
    if isinstance(left, ast.BinOp) and isinstance(test.ops[0], ast.Lt | ast.GtE | ast.Eq):
        return isinstance(left.op, ast.Add) and isinstance(right, ast.Name | ast.Call)  # i + 1 < n
    return isinstance(test.ops[0], ast.Eq | ast.NotEq) and isinstance(left, ast.Name) and isinstance(right, ast.Name)


def _changing(loop: Loop) -> frozenset[str]:
    """Return the names that differ from pass to pass: the loop's targets and what its body assigns."""
    nodes = [n for part in loop.body for n in (part, *walk_scope(part))]
    if not isinstance(loop, ast.While):
        nodes += [loop.target, *walk_scope(loop.target)]
    return frozenset(n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _nearest_ways(found: list[Definition]) -> list[Definition]:
    """Return each statement's definition once, on its easiest way."""
    best: dict[tuple[ast.AST, int | None], Definition] = {}
    for definition in found:
        same = (definition.node, definition.index)
        if same not in best or definition.way < best[same].way:
            best[same] = definition
    return list(best.values())
