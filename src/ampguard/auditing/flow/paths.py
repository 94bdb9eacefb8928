"""Walks the paths through a skeleton, carrying a machine's state and what each path knows.

States with equal machine state and equal knowledge are one; a loop is walked until no new state arrives at its
head. The number of states at a point is bounded: past the bound, paths forget what they know (which may let a
path through that cannot happen), and past it again the rest is not followed. So a walk is fast, and neither
complete nor free of impossible paths: machines drop what a path cannot know.
"""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Generic, TypeVar

from ampguard.auditing.flow.asked import all_ops, bodies, deciding, tests_of, worth_telling
from ampguard.auditing.flow.conditions import Atom, Fact, Facts, Known, Test, assume, atoms, subject_of
from ampguard.auditing.flow.liveness import dead_after
from ampguard.auditing.flow.skeleton import Bind, Block, Bound, Choose, Do, Event, Guarded, Leave, Op, Repeat
from ampguard.auditing.patterns import regex

S = TypeVar("S", bound=Hashable)

_STATES = 48
"""States kept at one point. Chosen: real functions stay under 20."""

_ROUNDS = 4
"""Walks through one loop's body: enough for states of a few steps to reach each other."""


class Machine(ABC, Generic[S]):
    """What a question remembers along a path."""

    @abstractmethod
    def start(self) -> S:
        """Return the state at the function's entry."""

    @abstractmethod
    def apply(self, event: Event, state: S, facts: Facts) -> Iterable[tuple[S, Facts]]:
        """Return the state after an event; several, where the event itself goes two ways."""

    def rebind(self, state: S, place: str, bound: Bound | None = None) -> S:  # noqa: ARG002
        """Return the state after a place got another value; `bound` says what is known of that value."""
        return state

    def again(self, state: S, loop: Repeat) -> S:  # noqa: ARG002
        """Return the state at the start of one walk through a loop's body."""
        return state

    def fallen(self, state: S) -> S:
        """Return the state in a handler that caught an exception from somewhere in its body."""
        return state

    def skippable(self, loop: Repeat) -> bool:  # noqa: ARG002
        """Whether a loop over something may run not even once."""
        return True

    def important(self, fact: Fact) -> bool:  # noqa: ARG002
        """Whether a path that knows too much should keep this."""
        return False

    def possible(self, state: S, test: Test, value: bool, before: Facts) -> bool:  # noqa: ARG002
        """Whether a path in this state can see an undecided test come out so."""
        return True


_CALLS = regex(r"\w\(")
_SETTLED = regex(r"isinstance\(|hasattr\(|is_enabled\(|is_available\(|is_initialized\(|is_supported\(|rank\(|len\(")
"""Calls whose answer stays the same while a loop runs."""

State = tuple[S, Facts]
States = dict[tuple[S, Facts], None]


@dataclass
class _Exits(Generic[S]):
    """Where paths leave a body by jumps."""

    breaks: "States[S]" = field(default_factory=dict)
    continues: "States[S]" = field(default_factory=dict)
    returns: "States[S]" = field(default_factory=dict)
    raises: "States[S]" = field(default_factory=dict)

    def of(self, kind: str) -> "States[S]":
        exits: States[S] = {"break": self.breaks, "continue": self.continues, "return": self.returns}.get(
            kind, self.raises
        )
        return exits


class Walk(Generic[S]):
    """One walk over one skeleton with one machine.

    Args:
        machine: What is remembered.
        ops: The skeleton.
        always: Places of which it is remembered whether they are None, however seldom it is asked.
    """

    def __init__(self, machine: Machine[S], ops: list[Op], always: frozenset[str] = frozenset()) -> None:
        self.machine = machine
        self.ops = ops
        self.always = always
        self.tested: set[str] = set()
        self.names: dict[str, frozenset[str]] = {}
        self._asked: Counter[str] = Counter()
        self._deciding: set[str] = set(always)
        self._kept: set[str] = set(always)
        """What the machine asks about, wherever the path is."""
        self.tested |= always
        self._collect(ops)
        self._dead = dead_after(ops)
        self._told_of = worth_telling(ops, self._deciding)
        self._watched: list[States[S]] = []
        self._known_ways: dict[tuple[int, bool], dict[Facts, list[tuple[Facts, Facts]]]] = defaultdict(dict)
        """By a test (the skeleton keeps it, so its number is its own) and its outcome: what a path knows after it."""

    def run(self, facts: Facts = frozenset(), state: S | None = None) -> "States[S]":
        """Walk every path from the entry; return the states at its ordinary ends."""
        exits: _Exits[S] = _Exits()
        first = (self.machine.start() if state is None else state, facts)
        ends = self._body(self.ops, {first: None}, exits)
        return {**ends, **exits.returns}

    def asks(self, test: Test) -> None:
        """Remember the parts of a test that the machine itself will ask about."""
        for atom in atoms(test):
            self.names[atom.text] = atom.names
            self.tested |= atom.names
            self._asked[subject_of(atom.text)] += 2
            self._deciding.add(subject_of(atom.text))
            self._kept.add(subject_of(atom.text))
        self._told_of = worth_telling(self.ops, self._deciding)

    def _collect(self, ops: list[Op]) -> None:
        for test, weight in _tests(ops, 1):
            for atom in atoms(test):
                self.names[atom.text] = atom.names
                self.tested |= atom.names
                self._asked[subject_of(atom.text)] += weight
        self._deciding |= deciding(ops, self.always)

    def _useful(self, facts: Facts, before: Facts) -> Facts:
        """Return what is worth remembering: what decides whether an event runs, and is asked more than once."""
        useless = [fact for fact in facts - before if not self._worth(subject_of(fact[0]))]
        return facts.difference(useless) if useless else facts

    def _worth(self, subject: str) -> bool:
        return subject in self._deciding and (self._asked[subject] > 1 or subject in self.always)

    def _body(self, ops: list[Op], states: "States[S]", exits: _Exits[S]) -> "States[S]":
        for op in ops:
            if not states:
                break
            states = self._op(op, states, exits)
            if id(op) in self._dead:
                states = self._let_go(self._dead[id(op)], states)
            states = self._bounded(states)
            for watched in self._watched:
                watched.update(states)
        return states

    def _let_go(self, dead: frozenset[str], states: "States[S]") -> "States[S]":
        """Forget what no test asks about any more, but for what the machine itself asks."""
        left: dict[Facts, Facts] = {}
        for _, facts in states:
            if facts not in left:
                gone = [f for f in facts if subject_of(f[0]) in dead and not self._asked_by_machine(f)]
                left[facts] = facts.difference(gone) if gone else facts
        return {(s, left[facts]): None for s, facts in states}

    def _asked_by_machine(self, fact: Fact) -> bool:
        return subject_of(fact[0]) in self._kept or self.machine.important(fact)

    def _op(self, op: Op, states: "States[S]", exits: _Exits[S]) -> "States[S]":
        if isinstance(op, Do):
            return {after: None for s, f in states for after in self.machine.apply(op.event, s, f)}
        if isinstance(op, Bind):
            return {after: None for s, f in states for after in self._bind(op.place, op.bound, s, f)}
        if isinstance(op, Choose):
            yes = self._body(op.body, self._decided(op.test, True, states), exits)
            no = self._body(op.orelse, self._decided(op.test, False, states), exits)
            return {**yes, **no}
        if isinstance(op, Repeat):
            return self._repeat(op, states, exits)
        if isinstance(op, Guarded):
            return self._guarded(op, states, exits)
        if isinstance(op, Block):
            return self._block(op, states, exits)
        exits.of(op.kind).update(states)
        return {}

    def _decided(self, test: Test, value: bool, states: "States[S]") -> "States[S]":
        found: States[S] = {}
        ways = self._known_ways[id(test), value]  # states of one path differ, what it knows seldom does
        for state, facts in states:
            if facts not in ways:
                ways[facts] = [(after, self._useful(after, facts)) for after in assume(test, value, facts)]
            for after, useful in ways[facts]:
                if after is facts or self.machine.possible(state, test, value, facts):
                    found[state, useful] = None
        return found

    def _block(self, op: Block, states: "States[S]", exits: _Exits[S]) -> "States[S]":
        inner: _Exits[S] = _Exits()
        ends = self._body(op.body, states, inner)
        exits.raises.update(inner.raises)
        return {**ends, **inner.returns}

    def _repeat(self, op: Repeat, states: "States[S]", exits: _Exits[S]) -> "States[S]":
        seen: States[S] = {}
        done: States[S] = {}
        inner: _Exits[S] = _Exits()
        head = states
        if op.test is None and self.machine.skippable(op):
            done.update(head)
        for _ in range(_ROUNDS):
            head = {s: None for s in head if s not in seen}
            if not head or len(seen) > _STATES * 2:
                break
            seen.update(head)
            if op.test is not None:
                done.update(self._decided(op.test, False, head))
            begun = self._decided(op.test, True, head) if op.test is not None else head
            begun = {self._begun(op, s, f): None for s, f in begun}
            ends = self._body(op.body, self._bounded(begun), inner)
            if ends and _passes_over(op.body, frozenset(op.places)) and not self.machine.skippable(op):
                self._leave_out_passes_over(begun, inner.continues)
            head = self._bounded({**ends, **inner.continues})
            if op.test is None:
                done.update(head)
        if op.test is not None:
            done.update(self._decided(op.test, False, head))
        exits.returns.update(inner.returns)
        exits.raises.update(inner.raises)
        return {**self._body(op.orelse, self._bounded(done), exits), **inner.breaks}

    @staticmethod
    def _leave_out_passes_over(begun: "States[S]", continues: "States[S]") -> None:
        """Drop the passes that left early and changed nothing: such a loop has one that was meant, too."""
        before = {state for state, _ in begun}
        for passed in [passed for passed in continues if passed[0] in before]:
            del continues[passed]

    def _begun(self, op: Repeat, state: S, facts: Facts) -> "State[S]":
        for place in op.places:
            state, facts = self.machine.rebind(state, place), self._forget(facts, place)
        return self.machine.again(state, op), frozenset(fact for fact in facts if not _passing(fact[0]))

    def _guarded(self, op: Guarded, states: "States[S]", exits: _Exits[S]) -> "States[S]":
        inner: _Exits[S] = _Exits()
        raised: States[S] = dict(states)
        self._watched.append(raised)
        ends = self._body(op.body, states, inner)
        self._watched.pop()
        ends = self._body(op.orelse, ends, inner)
        if op.handlers:
            caught = self._bounded({(self.machine.fallen(s), f): None for s, f in {**raised, **inner.raises}})
            inner.raises = {}
            for handler in op.handlers:
                ends = {**ends, **self._body(handler, caught, inner)}
        for kind in ("break", "continue", "return", "raise"):
            exits.of(kind).update(self._body(op.final, inner.of(kind), exits))
        return self._body(op.final, self._bounded(ends), exits)

    def _bind(self, place: str, bound: Bound, state: S, facts: Facts) -> Iterator["State[S]"]:
        state = self.machine.rebind(state, place, bound)
        if place not in self._told_of:
            yield state, self._forget(facts, place)
            return
        for before, added in self._told(place, bound, facts):
            yield state, self._forget(before, place) | added

    def _told(self, place: str, bound: Bound, facts: Facts) -> Iterator[tuple[Facts, Facts]]:
        """Yield (what the path knows, what it learns of the place) for each way that the value may be."""
        if bound.kind == "none":
            yield facts, is_none(place, none=True)
        elif bound.kind == "object":
            yield facts, is_none(place, none=False)
        elif bound.kind == "constant":
            yield facts, frozenset({(f"{place} == {bound.place}", True), (f"{place} is None", False)})
        elif bound.kind == "test" and bound.test is not None:
            for value in (True, False):
                for after in self._ways(bound.test, value, facts):
                    yield after, frozenset({(place, value)})
        elif bound.kind == "same":
            yield from self._same(bound.place, place, facts)
        elif bound.kind == "choice" and bound.test is not None and bound.parts is not None:
            for value, part in zip((True, False), bound.parts, strict=True):
                for after in self._ways(bound.test, value, facts):
                    yield from self._told(place, part, after)
        else:
            yield facts, frozenset()

    def _same(self, source: str, place: str, facts: Facts) -> Iterator[tuple[Facts, Facts]]:
        """Copy what is known of another place; where its truth is tested elsewhere but not known, go both ways."""
        if source not in self.tested or any((source, value) in facts for value in (True, False)):
            yield facts, _copied(facts, source, place)
            return
        for value in (True, False):
            for after in assume(Atom(source, prefixes(source), place=source), value, facts):
                yield after, _copied(after, source, place)

    def _ways(self, test: Test, value: bool, facts: Facts) -> list[Facts]:
        for atom in atoms(test):
            self.names.setdefault(atom.text, atom.names)
        return [facts] if isinstance(test, Known) and test.value is value else assume(test, value, facts)

    def _forget(self, facts: Facts, place: str) -> Facts:
        if not facts:
            return facts
        stale = [fact for fact in facts if place in self._mentioned(fact[0])]
        return facts.difference(stale) if stale else facts

    def _bounded(self, states: "States[S]") -> "States[S]":
        """Keep the number of states down: paths forget what is asked least, one thing at a time, then are dropped."""
        if len(states) <= _STATES:
            return states
        for subject in self._least_asked(states):
            states = {(s, frozenset(f for f in facts if subject_of(f[0]) != subject)): None for s, facts in states}
            if len(states) <= _STATES:
                return states
        return dict(list(states.items())[:_STATES])

    def _least_asked(self, states: "States[S]") -> list[str]:
        """Return what the paths know something about, what the machine needs last."""
        important = {subject_of(fact[0]): self.machine.important(fact) for _, facts in states for fact in facts}
        return sorted(important, key=lambda subject: (important[subject], self._asked[subject], subject))

    def _mentioned(self, text: str) -> frozenset[str]:
        if text not in self.names:
            self.names[text] = prefixes(text.split(" is None")[0].split(" == ")[0])
        return self.names[text]


@cache
def _passing(text: str) -> bool:
    """Whether a test may come out differently the next time round, although nothing in it was assigned."""
    return " % " in text or bool(_CALLS.search(text) and not _SETTLED.search(text))


def prefixes(place: str) -> frozenset[str]:
    """Return a place and the places it is a part of: "a.b.c" gives {"a", "a.b", "a.b.c"}."""
    found, at = [place], place
    while True:
        cut = max(at.rfind("."), at.rfind("["))
        if cut <= 0:
            return frozenset(found)
        at = at[:cut]
        found.append(at)


def is_none(place: str, *, none: bool) -> Facts:
    """Return what a path knows of a place that is (or is not) None."""
    known = {(f"{place} is None", none)}
    return frozenset(known | ({(place, False)} if none else set()))


def _copied(facts: Facts, source: str, place: str) -> Facts:
    renamed = {source: place, f"{source} is None": f"{place} is None"}
    return frozenset((renamed[text], value) for text, value in facts if text in renamed)


def _tests(ops: list[Op], weight: int) -> Iterator[tuple[Test, int]]:
    """Walk every test of a skeleton and of its assignments; inside a loop each counts as asked twice."""
    for op in ops:
        inner = 2 if isinstance(op, Repeat) else weight
        yield from ((test, inner) for test in tests_of(op))
        for body in bodies(op):
            yield from _tests(body, inner)


def _passes_over(ops: list[Op], places: frozenset[str]) -> bool:
    """Whether a loop leaves some passes early by a test of what it loops over: `if number != which: continue`."""
    chosen = [op for op in ops if isinstance(op, Choose)]
    leaves = (op for op in chosen if any(isinstance(o, Leave) and o.kind == "continue" for o in op.body))
    return any(not atom.names.isdisjoint(places) for op in leaves for atom in atoms(op.test))


def events(ops: list[Op]) -> Iterator[Event]:
    """Walk every event of a skeleton, in source order, whatever the paths."""
    return (op.event for op in all_ops(ops) if isinstance(op, Do))
