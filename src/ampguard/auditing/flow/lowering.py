"""Makes the skeleton of a function: which statements are kept, and in which order their parts run."""

import ast
from collections.abc import Iterable, Iterator
from itertools import chain

from ampguard.auditing.flow.conditions import Known, Naming, Not, Test, atoms, none_test, test_of
from ampguard.auditing.flow.skeleton import (
    Bind,
    Block,
    Bound,
    Choose,
    Do,
    Event,
    Guarded,
    Leave,
    Op,
    Repeat,
    Vocabulary,
)
from ampguard.auditing.reading.calls import Place
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, children, key

Root = Function | ast.Module
_JUMPS = {ast.Return: "return", ast.Break: "break", ast.Continue: "continue", ast.Raise: "raise"}
_EXITS = frozenset({"sys.exit", "exit", "quit", "os._exit", "os.abort"})
_PASSES = 3
"""Rounds in which kept tests make further assignments interesting."""


def calls_by_function(module: Module) -> dict[ast.AST, list[ast.Call]]:
    """Return the calls of a file by the function (or module) that runs them; a lambda's calls are its function's."""
    return module.once("calls by function", lambda: _grouped(module, module.tree.all(ast.Call)))


def calls_to_ask(module: Module, vocabulary: Vocabulary) -> dict[ast.AST, list[ast.Call]]:
    """Return the calls that may run a helper, by the function that runs them."""

    def named() -> dict[ast.AST, list[ast.Call]]:
        asked = (calls for name, calls in module.calls.items() if vocabulary.may_help(module, name))
        return _grouped(module, chain.from_iterable(asked))  # type: ignore[no-any-return]

    return module.once(("calls to ask", vocabulary.__class__), named)


def group(module: Module, nodes: Iterable[ast.AST]) -> dict[ast.AST, list[ast.AST]]:
    """Return nodes by the function (or module) that they run in."""
    return _grouped(module, nodes)  # type: ignore[no-any-return]


def _grouped(module: Module, nodes: Iterable[ast.AST]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    found: dict[ast.AST, list[ast.AST]] = {}
    for node in nodes:
        found.setdefault(module.tree.function(node) or module.root, []).append(node)
    return found


def lower(
    module: Module,
    root: Root,
    vocabulary: Vocabulary,
    *,
    naming: Naming | None = None,
    stack: tuple[tuple[Module, ast.Call], ...] = (),
) -> list[Op]:
    """Return the skeleton of a function, or of the file's own statements.

    Args:
        module: The file.
        root: The function, or the module node.
        vocabulary: What counts as an event.
        naming: How names are spelled; as they are by default.
        stack: The calls that led here.
    """
    return _Lowering(module, root, vocabulary, naming or Naming(), stack).run()


class _Lowering:
    def __init__(
        self,
        module: Module,
        root: Root,
        vocabulary: Vocabulary,
        naming: Naming,
        stack: tuple[tuple[Module, ast.Call], ...],
    ) -> None:
        self.module, self.root, self.vocabulary, self.naming, self.stack = module, root, vocabulary, naming, stack
        self.events = set(vocabulary.nodes(module).get(root, ()))
        self.helpers = dict(self._helpers())
        self.kept: set[ast.AST] = set()
        self.watched: set[str] = set()

    def run(self) -> list[Op]:
        """Lower the whole body; a function in which nothing matters leaves nothing."""
        self.watched = self.vocabulary.watched(self.events, self.module, self.naming)
        if not self.events and not self.helpers and not self.watched:
            return []
        self._keep([*self.events, *self.helpers])
        self._keep(self._jumps())
        self._keep_assignments()
        return self._body(self.root.body)

    def _helpers(self) -> Iterator[tuple[ast.AST, Place]]:
        if len(self.stack) >= self.vocabulary.depth:
            return
        inside = {call for _, call in self.stack}
        for call in calls_to_ask(self.module, self.vocabulary).get(self.root, ()):
            if call in self.events or call in inside:
                continue
            place = self.vocabulary.helper(self.module, call)
            if place is not None and place[1] is not self.root:
                yield call, place

    def _keep(self, nodes: Iterable[ast.AST]) -> None:
        parents, kept, root = self.module.tree.parents, self.kept, self.root
        for node in nodes:
            at: ast.AST | None = node
            while at is not None and at is not root and at not in kept:
                kept.add(at)
                at = parents.get(at)

    def _jumps(self) -> list[ast.AST]:
        grouped = self.module.once(
            "jumps by function", lambda: group(self.module, self.module.tree.all(*_JUMPS, ast.Assert))
        )
        found: list[ast.AST] = [node for node in grouped.get(self.root, ()) if self._near_an_event(node)]
        return found

    def _near_an_event(self, node: ast.AST) -> bool:
        """Whether a jump may change which events run: not one that stays inside a loop without events."""
        if isinstance(node, ast.Break | ast.Continue):
            loop = next(self.module.tree.loops(node), None)
            return loop is None or loop in self.kept
        return True

    def _keep_assignments(self) -> None:
        assigned = self._assignments()
        for _ in range(_PASSES):
            places = self._tested_places() | self.watched
            fresh = [node for place, node in assigned if place in places and node not in self.kept]
            if not fresh:
                return
            self._keep(fresh)

    def _assignments(self) -> list[tuple[str, ast.AST]]:
        grouped = self.module.once(
            "assignments by function",
            lambda: group(self.module, self.module.tree.all(ast.Assign, ast.AnnAssign, ast.AugAssign)),
        )
        return [(place, node) for node in grouped.get(self.root, ()) for place in self._targets(node)]

    def _targets(self, node: ast.AST) -> list[str]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
        flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
        return [place for t in flat if (place := self.naming.place(t)) is not None]

    def _tested_places(self) -> set[str]:
        found: set[str] = set()
        for node in self.kept:
            if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
                found |= self.naming.names(node.test)
            elif isinstance(node, ast.BoolOp):
                found |= self.naming.names(node)
        return found

    def _body(self, body: list[ast.stmt]) -> list[Op]:
        ops: list[Op] = []
        for statement in body:
            ops += self._statement(statement)
            if ops and isinstance(ops[-1], Leave):
                break
        return ops

    def _statement(self, node: ast.stmt) -> list[Op]:
        if node not in self.kept:
            return []
        if isinstance(node, ast.If):
            return [
                *self._expression(node.test),
                self._choose(node.test, self._body(node.body), self._body(node.orelse)),
            ]
        if isinstance(node, ast.For | ast.AsyncFor | ast.While):
            return self._loop(node)
        if isinstance(node, ast.With | ast.AsyncWith):
            return self._with(node)
        if isinstance(node, ast.Try | ast.TryStar):
            return self._try(node)
        if isinstance(node, ast.Match):
            return self._match(node)
        if isinstance(node, ast.Assert):
            return [*self._expression(node.test), self._choose(node.test, [], [Leave("raise")])]
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            return []
        return self._simple(node)

    def _simple(self, node: ast.stmt) -> list[Op]:
        ops = [op for child in children(node) for op in self._expression(child)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            binds = [bind for target in targets for bind in self._binds(target, node.value)]
            named = [op for op in ops if isinstance(op, Do) and op.event.data.get("to")]
            ops = [*(op for op in ops if op not in named), *binds, *named]
        elif isinstance(node, ast.AugAssign):
            ops += [Bind(place, Bound("unknown")) for place in self._targets(node)]
        if node in self.events:
            ops += self._event(node)
        kind = _JUMPS.get(node.__class__)
        if kind is not None:
            ops.append(Leave(kind))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and key(node.value.func) in _EXITS:
            ops.append(Leave("raise"))
        return ops

    def _binds(self, target: ast.expr, value: ast.expr) -> Iterator[Bind]:
        if isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            for position, element in enumerate(target.elts):
                one = values[position] if len(values) == len(target.elts) else None
                place = self.naming.place(element)
                if place is not None:
                    yield Bind(place, self._bound(one) if one is not None else Bound("unknown"))
            return
        place = self.naming.place(target)
        if place is not None:
            yield Bind(place, self._bound(value))

    def _bound(self, value: ast.expr) -> Bound:
        return bound(value, self.naming)

    def _choose(self, test: ast.expr, body: list[Op], orelse: list[Op]) -> Choose:
        return Choose(test_of(test, self.naming), body, orelse)

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> list[Op]:
        body, orelse = self._body(node.body), self._body(node.orelse)
        if isinstance(node, ast.While):
            before = self._expression(node.test)
            return [Repeat([*before, *body], orelse, test_of(node.test, self.naming), (), node)]
        elements = node.target.elts if isinstance(node.target, ast.Tuple | ast.List) else [node.target]
        places = [place for e in _flat(elements) if (place := self.naming.place(e)) is not None]
        return [*self._expression(node.iter), Repeat(body, orelse, None, tuple(places), node)]

    def _with(self, node: ast.With | ast.AsyncWith) -> list[Op]:
        ops: list[Op] = []
        for item in node.items:
            ops += self._expression(item.context_expr)
            place = self.naming.place(item.optional_vars)
            if place is not None:
                ops.append(Bind(place, Bound("object")))
        body = self._body(node.body)
        if any(isinstance(i.context_expr, ast.Call) and _ends(i.context_expr, "suppress") for i in node.items):
            return [*ops, Guarded(body, [[]], [], [])]
        return [*ops, *body]

    def _try(self, node: ast.Try | ast.TryStar) -> list[Op]:
        handlers = [self._body(handler.body) for handler in node.handlers]
        return [Guarded(self._body(node.body), handlers, self._body(node.orelse), self._body(node.finalbody))]

    def _match(self, node: ast.Match) -> list[Op]:
        orelse: list[Op] = []
        for case in reversed(node.cases):
            plain = isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None
            test: Test = Known(True) if plain else self._case(node.subject, case)
            orelse = [Choose(test, self._body(case.body), orelse)]
        return [*self._expression(node.subject), *orelse]

    def _case(self, subject: ast.expr, case: ast.match_case) -> Test:
        if isinstance(case.pattern, ast.MatchValue) and case.guard is None:
            return test_of(ast.Compare(subject, [ast.Eq()], [case.pattern.value]), self.naming)
        return none_test(f"{self.naming.text(subject)} matches {ast.unparse(case.pattern)}", self.naming.names(subject))

    def _expression(self, node: ast.AST) -> list[Op]:
        if node not in self.kept or isinstance(node, ast.Lambda):
            return []
        if isinstance(node, ast.BoolOp):
            return self._short_circuit(node)
        if isinstance(node, ast.IfExp):
            ways = self._expression(node.body), self._expression(node.orelse)
            return [*self._expression(node.test), self._choose(node.test, *ways)]
        ops = [op for child in children(node) for op in self._expression(child)]
        if isinstance(node, ast.NamedExpr):
            ops += self._binds(node.target, node.value)
        if node in self.helpers:
            ops.append(self._block(node))  # type: ignore[arg-type]
        elif node in self.events:
            ops += self._event(node)
        return ops

    def _short_circuit(self, node: ast.BoolOp) -> list[Op]:
        ops = self._expression(node.values[-1])
        for value in reversed(node.values[:-1]):
            test = test_of(value, self.naming)
            ops = [*self._expression(value), Choose(test if isinstance(node.op, ast.And) else Not(test), ops, [])]
        return ops

    def _event(self, node: ast.AST) -> list[Op]:
        event = self.vocabulary.event(node, self.module, self.naming)
        if event is None:
            return []
        return [Do(Event(event.kind, node, self.module, self.stack, event.data))]

    def _block(self, call: ast.Call) -> Block:
        module, function = self.helpers[call]
        naming = _inner_naming(call, module, function, self.naming, len(self.stack))
        stack = (*self.stack, (self.module, call))
        return Block(lower(module, function, self.vocabulary, naming=naming, stack=stack), module)


def bound(value: ast.expr, naming: Naming) -> Bound:
    """Return what an assigned expression tells of the place that gets it."""
    if isinstance(value, ast.Constant):
        if value.value is None:
            return Bound("none")
        truth = isinstance(value.value, bool)
        return Bound("test", Known(bool(value.value))) if truth else Bound("constant", place=repr(value.value))
    if isinstance(value, ast.IfExp):
        return Bound(
            "choice", test_of(value.test, naming), parts=(bound(value.body, naming), bound(value.orelse, naming))
        )
    if isinstance(value, ast.Compare) or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)):
        return Bound("test", test_of(value, naming))
    if isinstance(value, ast.BoolOp) and atoms(test_of(value, naming)):
        return Bound("test", test_of(value, naming))
    place = naming.place(value)
    if place is not None:
        return Bound("same", place=place)
    if isinstance(value, ast.Call):
        return Bound("object" if _constructs(value) else "unknown")
    return Bound("object" if isinstance(value, ast.Dict | ast.List | ast.Tuple | ast.Set | ast.Lambda) else "unknown")


def _constructs(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name[:1].isupper()


def _inner_naming(call: ast.Call, module: Module, function: Function, outer: Naming, depth: int) -> Naming:
    """Return how a helper's names are spelled at one call: parameters as the arguments, the rest with a prefix."""
    plain = [arg.arg for arg, _ in parameters(function)]
    own: dict[str, str] = {}
    is_method = bool(plain) and plain[0] in ("self", "cls") and module.tree.class_of(function) is not None
    if is_method:
        owner = call.func.value if isinstance(call.func, ast.Attribute) and function.name != "__init__" else None
        if isinstance(owner, ast.Call) and key(owner.func) == "super":
            owner = ast.Name("self", ast.Load())
        if function.name == "__call__":
            owner = call.func
        place = outer.place(owner)
        if place is not None:
            own[plain[0]] = place
        plain = plain[1:]
    given = [*zip(plain, call.args, strict=False), *((k.arg, k.value) for k in call.keywords if k.arg in plain)]
    for name, value in given:
        place = outer.place(value)
        if place is not None and name is not None:
            own[name] = place
    prefix = f"{outer.prefix}{function.name}{depth}:"
    local = module.names.bindings_in(function)
    return Naming(own, prefix, lambda name: name not in local)


def _flat(elements: list[ast.expr]) -> Iterator[ast.expr]:
    for element in elements:
        if isinstance(element, ast.Tuple | ast.List):
            yield from _flat(element.elts)
        else:
            yield element


def _ends(call: ast.Call, name: str) -> bool:
    return (key(call.func) or "").split(".")[-1] == name
