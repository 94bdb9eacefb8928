"""What may be None where: one reading of a function's statements in order, for all of its names and attributes.

A state holds the places that may be None, each with what left it so, and the tests that hold at that point. Arms are
joined; what returns or raises ends its arm; a loop runs at least once, and a second time where its end leaves more
open than its beginning. A test of a place tells its arms apart, and so does a name that holds the answer of one
(`given = x is not None`). What is None under some test is None no longer where that test is known to fail.

Only statements that hold one of the places, or that leave a block, are read.
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ampguard.auditing.flow.nullness_state import (
    Maybe,
    State,
    asked_none,
    handed_through,
    is_check,
    joined,
    known,
    mentions,
    spelled,
    split,
    vague,
)
from ampguard.auditing.flow.optional_plain import needed_by
from ampguard.auditing.reading.tree import FUNCTIONS, Function, children, is_none_literal, key

_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_NESTED = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_TRIES = (ast.Try, ast.TryStar)


class Reading:
    """One reading of a function.

    Args:
        hot: The nodes that hold one of the places or leave a block, and all above them.
        left: What an expression leaves None, beside literals, names and choices of these: by the call.
        reset: The places that a call may give a value.
        used: Told of each use of a place that may be None; whether the place is not None behind it.
    """

    def __init__(
        self,
        hot: set[ast.AST],
        left: Callable[[ast.expr], str | None],
        reset: Callable[[ast.Call], Iterable[str]],
        used: Callable[[str, Maybe, ast.AST, State, bool], bool],
    ) -> None:
        self.hot, self.left, self.reset, self.used = hot, left, reset, used
        self.caught = 0
        self.loops: list[list[State]] = []
        self.ends: list[State] = []

    def run(self, function: Function | ast.Module, state: State) -> State | None:
        """Read a function from what may be None at its beginning; return what holds at its end."""
        end = self._block(function.body, state)
        for early in self.ends:
            end = joined(end, early)
        return end

    def _block(self, body: Sequence[ast.stmt], state: State | None) -> State | None:
        for statement in body:
            if state is None:
                return None
            if statement in self.hot:
                state = self._statement(statement, state)
        return state

    def _statement(self, node: ast.stmt, state: State) -> State | None:
        reader = _READERS.get(node.__class__)
        if reader is not None:
            return reader(self, node, state)
        if isinstance(node, _NESTED):
            return state
        return self.see(node, state)

    def _leave(self, node: ast.stmt, state: State) -> State | None:
        state = self.see(node, state)
        if isinstance(node, ast.Continue | ast.Break) and self.loops:
            self.loops[-1].append(state)
        elif isinstance(node, ast.Return):
            self.ends.append(state)
        return None

    def _if(self, node: ast.If, state: State) -> State | None:
        holds, fails = self.test(node.test, state)
        if isinstance(node.body[-1], ast.Raise) and fails is not None:
            fails = replace(fails, facts=state.facts)  # no other way goes on: it is no choice
        elif node.orelse and isinstance(node.orelse[-1], ast.Raise) and holds is not None:
            holds = replace(holds, facts=state.facts)
        return joined(self._block(node.body, holds), self._block(node.orelse, fails))

    def _assert(self, node: ast.Assert, state: State) -> State | None:
        holds = self.test(node.test, state)[0]
        return replace(holds, facts=state.facts) if holds is not None else None

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, state: State) -> State | None:
        if isinstance(node, ast.While):
            before, _ = self.test(node.test, state)
        else:
            before = self.see(node.iter, state)
            before = self._need(node, before)
            before = before.without([p for p in before.maybe if mentions(node.iter, p)])
            before = self.bind(node.target, None, before)
        if before is None:
            return state
        end = self._once(node.body, before)
        if end is not None and any(place not in before.maybe for place in end.maybe):
            end = joined(end, self._once(node.body, joined(before, end) or before))
        end = replace(end, facts=before.facts & end.facts) if end is not None else before
        return self._block(node.orelse, end)

    def _once(self, body: Sequence[ast.stmt], state: State) -> State | None:
        self.loops.append([])
        end = self._block(body, state)
        for early in self.loops.pop():
            end = joined(end, early)
        return end

    def _with(self, node: ast.With | ast.AsyncWith, state: State) -> State | None:
        for item in node.items:
            state = self.see(item.context_expr, state)
            if item.optional_vars is not None:
                state = self.bind(item.optional_vars, None, state)
        return self._block(node.body, state)

    def _try(self, node: ast.Try, state: State) -> State | None:
        self.caught += bool(node.handlers)
        tried = self._block(node.body, state)
        self.caught -= bool(node.handlers)
        begun = joined(state, tried)
        arms = [self._block(node.orelse, tried), *(self._block(handler.body, begun) for handler in node.handlers)]
        end: State | None = None
        for arm in arms:
            end = joined(end, arm)
        if not node.finalbody:
            return end
        behind = self._block(node.finalbody, end or begun)
        return behind if end is not None else None

    def _match(self, node: ast.Match, state: State) -> State | None:
        state = self.see(node.subject, state)
        end: State | None = state
        for case in node.cases:
            fact = (f"{ast.unparse(node.subject)} is {ast.unparse(case.pattern)}", True)
            end = joined(end, self._block(case.body, state.given(fact)))
        return end

    def _assign(self, node: ast.Assign | ast.AnnAssign, state: State) -> State:
        if node.value is None:
            return state
        state = self.see(node.value, state)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            state = self.bind(target, node.value, state)
        return state

    def _add(self, node: ast.AugAssign, state: State) -> State:
        state = self.see(node.value, state)
        place = key(node.target)
        return self._use(place, node, state) if place is not None else state

    def bind(self, target: ast.expr, value: ast.expr | None, state: State) -> State:
        """Return the state in which a target holds a value."""
        if isinstance(target, ast.Tuple | ast.List):
            values: list[ast.expr | None] = [None] * len(target.elts)
            handed = handed_through(value, len(target.elts))
            if handed is not None:
                values = list(handed)
            held = [self._of(v, state) if v is not None else None for v in values]
            for element, one in zip(target.elts, held, strict=True):
                state = self._bound(element, one, None, state)
            return state
        return self._bound(target, self._of(value, state) if value is not None else None, value, state)

    def _bound(self, target: ast.expr, maybe: Maybe | None, value: ast.expr | None, state: State) -> State:
        if isinstance(target, ast.Starred):
            target = target.value
        if isinstance(target, ast.Tuple | ast.List):
            return self.bind(target, None, state)
        place = key(target)
        if place is None:
            return self.see(target, state)
        if not isinstance(target, ast.Name):
            state = self._need(target, state)
        inner = [p for p in state.maybe if p == place or p.startswith((f"{place}.", f"{place}["))]
        kept = {p: m for p, m in state.maybe.items() if p not in inner}
        if maybe is not None:
            kept[place] = maybe
        facts = frozenset(fact for fact in state.facts if place not in fact[0])
        flags = {name: test for name, test in state.flags.items() if name != place and not mentions(test, place)}
        if isinstance(value, ast.Compare | ast.BoolOp | ast.UnaryOp) and not mentions(value, place):
            flags[place] = value
        return State(kept, facts, flags)

    def _of(self, value: ast.expr, state: State) -> Maybe | None:
        """Return how a value may be None."""
        if isinstance(value, ast.IfExp):
            holds, fails = self.test(value.test, state, told=False)
            arms = [(one, self._of(part, one)) for part, one in ((value.body, holds), (value.orelse, fails)) if one]
            nones = [(one, maybe) for one, maybe in arms if maybe is not None]
            if len(nones) == 1 and len(arms) == 2:
                one, maybe = nones[0]
                return replace(maybe, under=maybe.under | (one.facts - state.facts))
            return nones[0][1] if nones else None
        if isinstance(value, ast.BoolOp):
            return self._of(value.values[-1], state) if isinstance(value.op, ast.Or) else None
        if is_none_literal(value):
            return Maybe(value, "left", state.facts, state.facts)
        place = key(value)
        if place is not None:  # what is kept where a test has found it None is told there
            return state.maybe.get(place) if (f"{place} is None", True) not in state.facts else None
        kind = self.left(value)
        return Maybe(value, kind, frozenset(), state.facts) if kind is not None else None

    def see(self, node: ast.AST, state: State, *, needs: bool = True) -> State:
        """Return the state behind an expression, whose uses are told."""
        if node not in self.hot or isinstance(node, _NESTED):
            return state
        if isinstance(node, ast.BoolOp):
            holds, fails = self.test(node, state)
            return joined(holds, fails) or state
        if isinstance(node, ast.IfExp):
            holds, fails = self.test(node.test, state)
            arms = [self.see(part, one) for part, one in ((node.body, holds), (node.orelse, fails)) if one]
            return (joined(arms[0], arms[-1]) if arms else None) or state
        if isinstance(node, _COMPREHENSIONS):
            self._comprehension(node, state)
            return state
        if isinstance(node, ast.NamedExpr):
            return self.bind(node.target, node.value, self.see(node.value, state))
        for child in children(node):
            state = self.see(child, state)
        if needs:
            state = self._need(node, state)
        if isinstance(node, ast.Call):
            state = self._called(node, state)
        return state

    def _called(self, node: ast.Call, state: State) -> State:
        asked = [key(a) for a in node.args] if is_check(node) else []
        return state.without([p for p in (*asked, *self.reset(node)) if p is not None])

    def _comprehension(self, node: ast.AST, state: State) -> None:
        inner: State | None = state
        for generator in node.generators:  # type: ignore[attr-defined]
            inner = self._need(generator, self.see(generator.iter, inner)) if inner is not None else None
            for test in generator.ifs:
                inner = self.test(test, inner)[0] if inner is not None else None
        for name in ("key", "elt", "value"):
            part = getattr(node, name, None)
            if part is not None and inner is not None:
                self.see(part, inner)

    def _need(self, node: ast.AST, state: State) -> State:
        for needed in needed_by(node):
            place = key(needed)
            if place is not None and place in state.maybe:
                state = self._use(place, node, state)
        return state

    def _use(self, place: str, node: ast.AST, state: State) -> State:
        maybe = state.maybe.get(place)
        if maybe is not None and self.used(place, maybe, node, state, bool(self.caught)):
            return state.without([place])
        return state

    def test(self, test: ast.expr, state: State, *, told: bool = True) -> tuple[State | None, State | None]:
        """Return the states in which a test holds, and fails; None where that cannot be."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            holds, fails = self.test(test.operand, state, told=told)
            return fails, holds
        if isinstance(test, ast.BoolOp):
            return self._parts(test, state, told=told)
        if isinstance(test, ast.Constant):
            return (state, None) if test.value else (None, state)
        if told:
            state = self.see(test, state)
        return self._atom(test, state)

    def _parts(self, test: ast.BoolOp, state: State, *, told: bool) -> tuple[State | None, State | None]:
        is_and, left = isinstance(test.op, ast.And), state
        out: State | None = None
        for value in test.values:
            holds, fails = self.test(value, left, told=told)
            on, off = (holds, fails) if is_and else (fails, holds)
            out = joined(out, off)
            if on is None:
                return (None, out) if is_and else (out, None)
            left = on
        together = {none[0] for none in map(asked_none, test.values) if none is not None}
        if len(together) > 1:  # asked about together: that one of them is there may be all that is wanted
            out = out.without(together) if out is not None else None
        return (left, out) if is_and else (out, left)

    def _atom(self, test: ast.expr, state: State) -> tuple[State | None, State | None]:
        none = asked_none(test)
        if none is not None:
            asked_for, when = none
            holds, fails = split(asked_for, state)
            return (holds, fails) if when else (fails, holds)
        place = key(test)
        if place is not None and place in state.flags:
            holds, fails = self.test(state.flags[place], state, told=False)
            return known(place, holds, fails)
        text, turned = spelled(test)
        if place is not None:
            there = split(place, state)[1]
            return (there.given((text, True)) if there else None, state.given((text, False)))
        asked = [p for p in state.maybe if p in text and mentions(test, p)]
        holds = state.without(asked).given((text, not turned))
        return holds, state.without(vague(test, asked)).given((text, turned))


_READERS: Mapping[type, Callable[..., State | None]] = {
    **dict.fromkeys(_LEAVES, Reading._leave),
    **dict.fromkeys((ast.For, ast.AsyncFor, ast.While), Reading._loop),
    **dict.fromkeys((ast.With, ast.AsyncWith), Reading._with),
    **dict.fromkeys(_TRIES, Reading._try),
    **dict.fromkeys((ast.Assign, ast.AnnAssign), Reading._assign),
    ast.If: Reading._if,
    ast.Assert: Reading._assert,
    ast.Match: Reading._match,
    ast.AugAssign: Reading._add,
}
