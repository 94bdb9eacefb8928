"""What is known at one point of a function of its places that may be None, and what its tests tell of them."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ampguard.auditing.reading.tree import argument, is_none_literal, key, receiver

Fact = tuple[str, bool]
"""The text of a test, and whether it holds."""

Facts = frozenset[Fact]


@dataclass(frozen=True, eq=False)
class Maybe:
    """What left a place None.

    Attributes:
        origin: The parameter, the assignment, the call.
        kind: "default", "asked", "left", "looked up", "attribute", "option" or "answer".
        under: The tests that hold wherever the place is None.
        since: The tests that held where it became so.
        passed: Whether a question on the way has found it None, and the way went on.
    """

    origin: ast.AST
    kind: str
    under: Facts = frozenset()
    since: Facts = frozenset()
    passed: bool = False


@dataclass(frozen=True)
class State:
    """What is known at one point.

    Attributes:
        maybe: What may be None, by place.
        facts: The tests that hold.
        flags: Tests that names stand for.
    """

    maybe: Mapping[str, Maybe] = field(default_factory=dict)
    facts: Facts = frozenset()
    flags: Mapping[str, ast.expr] = field(default_factory=dict)

    def without(self, places: Iterable[str]) -> "State":
        """Return the state in which these places are not None."""
        gone = {p for p in places if p in self.maybe}
        if not gone:
            return self
        return State({p: m for p, m in self.maybe.items() if p not in gone}, self.facts, self.flags)

    def given(self, *facts: Fact) -> "State":
        """Return the state in which these tests hold too, without what they exclude."""
        known = self.facts.union(facts)
        excluded = [p for p, m in self.maybe.items() if any((text, not held) in m.under for text, held in facts)]
        return State(self.without(excluded).maybe, known, self.flags)


def joined(one: State | None, other: State | None) -> State | None:
    """Return what is known where two ways meet; None for a way that never gets there."""
    if one is None or other is None:
        return one or other
    if one is other:
        return one
    facts = one.facts & other.facts
    maybe = {**_joining(one, other, facts), **_joining(other, one, facts)}
    flags = {name: test for name, test in one.flags.items() if other.flags.get(name) is test}
    return State(maybe, facts, flags)


def _joining(one: State, other: State, facts: Facts) -> dict[str, Maybe]:
    """Return what may be None by one way: where the other gives a value, under what holds on this way alone."""
    found: dict[str, Maybe] = {}
    for place, maybe in one.maybe.items():
        beside = other.maybe.get(place)
        if beside is maybe:
            found[place] = maybe
        elif beside is None:
            found[place] = replace(maybe, under=maybe.under | (one.facts - facts))
        else:
            under, since = maybe.under & beside.under, maybe.since & beside.since
            found[place] = replace(maybe, under=under, since=since, passed=maybe.passed or beside.passed)
    return found


_ASKING = ("isinstance", "hasattr", "getattr", "callable", "type", "len", "bool", "any", "all", "is_tensor")
_GIVEN = ("exists", "is_given", "not_none", "is_not_none", "is_defined")


def known(place: str, holds: State | None, fails: State | None) -> tuple[State | None, State | None]:
    """Return the two sides of a test that a name stands for, with what that name holds in them."""
    return (holds.given((place, True)) if holds else None, fails.given((place, False)) if fails else None)


def split(place: str, state: State) -> tuple[State | None, State | None]:
    """Return the states in which a place is None, and is not."""
    text = f"{place} is None"
    there = state.without([place]).given((text, False))
    maybe = state.maybe.get(place)
    if maybe is not None:
        state = State({**state.maybe, place: replace(maybe, passed=True)}, state.facts, state.flags)
    return state.given((text, True)), there


def asked_none(test: ast.expr) -> tuple[str, bool] | None:
    """Return the place that a test compares with None, and whether it holds where that is None."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and is_none_literal(test.comparators[0]):
        place = key(test.left.target if isinstance(test.left, ast.NamedExpr) else test.left)
        if place is not None and isinstance(test.ops[0], ast.Is | ast.Eq | ast.IsNot | ast.NotEq):
            return place, isinstance(test.ops[0], ast.Is | ast.Eq)
    if isinstance(test, ast.Call) and key(test.func) in _GIVEN and len(test.args) == 1:
        place = key(test.args[0])
        return (place, False) if place is not None else None
    return None


def spelled(test: ast.expr) -> tuple[str, bool]:
    """Return the text of a test, with `==` for `!=` and the like, and whether it is turned round by that."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and test.ops[0].__class__ in _TURNED:
        return f"{ast.unparse(test.left)} {_TURNED[test.ops[0].__class__]} {ast.unparse(test.comparators[0])}", True
    return ast.unparse(test), False


_TURNED: Mapping[type, str] = {ast.NotEq: "==", ast.IsNot: "is", ast.NotIn: "in"}


def mentions(test: ast.AST, place: str) -> bool:
    """Whether an expression holds a place."""
    return any(key(node) == place for node in ast.walk(test))


def vague(test: ast.expr, asked: list[str]) -> list[str]:
    """Return the places of a test that its failing tells of too: those that a function is asked about."""
    plain = isinstance(test, ast.Call) and key(test.func) in _ASKING
    return [] if plain or isinstance(test, ast.Compare) else asked


def is_check(node: ast.Call) -> bool:
    """Whether a function that is named for it looks at what it is given."""
    if key(node.func) in _GIVEN:
        return False
    name = (key(node.func) or "").rpartition(".")[2].lower()
    return any(word in name for word in ("check", "assert", "exists", "valid", "require", "ensure"))


def handed_through(value: ast.expr | None, length: int) -> Sequence[ast.expr | None] | None:
    """Return what each element of a tuple is given: by a tuple, or by what gives back what it is handed."""
    if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == length:
        return value.elts
    if isinstance(value, ast.Call) and key(value.func) == "deepspeed.initialize" and length == len(_OF_DEEPSPEED):
        return [argument(value, None, name) for name in _OF_DEEPSPEED]
    if isinstance(value, ast.Call) and "accelerator" in (key(receiver(value)) or "").lower():
        return value.args if len(value.args) == length else None
    return None


_OF_DEEPSPEED = ("", "optimizer", "training_data", "lr_scheduler")
"""What an engine's parts are handed over as; the first of them is made in any case."""
