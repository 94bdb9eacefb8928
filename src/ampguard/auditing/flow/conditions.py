"""Tests of `if` and `while` in a normal form, and what is known of them on one path.

An *atom* is a test that is not taken apart further, known by its text: "scaler is None", "args.amp", "i % 4 == 0".
What a path knows is a set of (atom, truth). The same atom tested again goes the same way until one of the names in
it is assigned; so `if use_amp:` around the backward pass and `if use_amp:` around the step are one decision.

Names are rendered through a `Naming`, so that a helper's parameter and its caller's argument are one name.
"""

import ast
import builtins
import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.tree import key, walk

Fact = tuple[str, bool]
Facts = frozenset[Fact]

_NAME = regex(r"(?<![\w.'\"])[A-Za-z_]\w*")
"""A name in a line of source; one after a dot or a quotation mark is none."""

_FORKS = 6
"""Ways kept when a test of many parts comes out false (or true) in several ways."""


@dataclass(frozen=True)
class Atom:
    """A test that is not taken apart.

    Attributes:
        text: Its spelling; equal texts are one atom.
        names: The places it mentions with the places they are parts of: {"self", "self.amp"}.
        equals: For `place == constant`, the place and the constant's spelling; else None.
        place: For the truth or None-ness of a place, that place; else "".
    """

    text: str
    names: frozenset[str]
    equals: tuple[str, str] | None = None
    place: str = ""


@dataclass(frozen=True)
class Not:
    """A test the other way round."""

    test: "Test"


@dataclass(frozen=True)
class All:
    """Tests joined by `and`, evaluated in order."""

    tests: tuple["Test", ...]


@dataclass(frozen=True)
class Any_:
    """Tests joined by `or`, evaluated in order."""

    tests: tuple["Test", ...]


@dataclass(frozen=True)
class Known:
    """A test whose outcome does not depend on the run."""

    value: bool


Test = Atom | Not | All | Any_ | Known


@dataclass
class Naming:
    """How the names of one function are spelled on a path.

    Attributes:
        own: Name in the function -> spelling outside; names that are not listed get `prefix`.
        prefix: "" for the function at the root, something of its own for an inlined one.
        shared: Names that are the same everywhere (globals), spelled without the prefix.
    """

    own: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    shared: Callable[[str], bool] = lambda _: False

    def spelled(self, name: str) -> str:
        """Return how a bare name of the function is spelled."""
        if name in self.own:
            return self.own[name]
        return name if not self.prefix or self.shared(name) else f"{self.prefix}{name}"

    def place(self, node: ast.AST | None) -> str | None:
        """Return the spelling of a place (see `tree.key`), or None."""
        plain = key(node)
        if plain is None:
            return None
        root = node
        while not isinstance(root, ast.Name):
            root = root.value  # type: ignore[union-attr]
        return self.spelled(root.id) + plain[len(root.id) :]

    def text(self, node: ast.AST) -> str:
        """Return an expression's source with every name as it is spelled."""
        if not self.own and not self.prefix:
            return ast.unparse(node)
        place = self.place(node)
        return place if place is not None else _NAME.sub(self._renamed, ast.unparse(node))

    def _renamed(self, found: re.Match[str]) -> str:
        name = found[0]
        return name if keyword.iskeyword(name) or hasattr(builtins, name) else self.spelled(name)

    def names(self, node: ast.AST) -> frozenset[str]:
        """Return every place that an expression mentions, with the places they are parts of."""
        found: set[str] = set()
        for at in walk(node):
            if isinstance(at, ast.Name | ast.Attribute | ast.Subscript):
                place = self.place(at)
                if place is not None:
                    found.add(place)
        return frozenset(found)


def test_of(node: ast.expr, naming: Naming) -> Test:
    """Return the normal form of an expression used as a test."""
    if isinstance(node, ast.BoolOp):
        parts = tuple(test_of(value, naming) for value in node.values)
        return All(parts) if isinstance(node.op, ast.And) else Any_(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return Not(test_of(node.operand, naming))
    if isinstance(node, ast.Constant):
        return Known(bool(node.value))
    if isinstance(node, ast.NamedExpr):
        return test_of(node.target, naming)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _comparison(node, naming)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "bool"
        and len(node.args) == 1
    ):
        return test_of(node.args[0], naming)
    place = naming.place(node)
    plain = Atom(place or naming.text(node), naming.names(node), place=place or "")
    held = _asked_for(node)
    return plain if held is None else Any_((Not(none_test(naming.place(held) or "", naming.names(held))), plain))


def _asked_for(node: ast.expr) -> ast.Attribute | None:
    """Return the attribute that a `hasattr(self, "scaler")` asks for: one that holds an object is certainly there."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"):
        return None
    name = node.args[1] if len(node.args) == 2 else None
    if not (isinstance(name, ast.Constant) and isinstance(name.value, str)) or key(node.args[0]) is None:
        return None
    return ast.Attribute(node.args[0], name.value, ast.Load())


def none_test(place: str, names: frozenset[str]) -> Atom:
    """Return the atom "place is None"."""
    return Atom(f"{place} is None", names, place=place)


def _comparison(node: ast.Compare, naming: Naming) -> Test:
    left, op, right = node.left, node.ops[0], node.comparators[0]
    if isinstance(left, ast.NamedExpr):
        left = left.target
    if isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) and isinstance(right, ast.Constant):
        negated = isinstance(op, ast.IsNot | ast.NotEq)
        inner = _constant_comparison(left, right, naming)
        return Not(inner) if negated else inner
    if isinstance(op, ast.NotEq | ast.NotIn):
        same = ast.Compare(left, [ast.Eq() if isinstance(op, ast.NotEq) else ast.In()], [right])
        return Not(Atom(naming.text(same), naming.names(node)))
    equals = None
    if isinstance(op, ast.Eq):
        place, constant = naming.place(left), naming.place(right)
        equals = (place, constant) if place and constant and constant.startswith("torch.") else None
    return Atom(naming.text(node), naming.names(node), equals=equals)


def _constant_comparison(left: ast.expr, right: ast.Constant, naming: Naming) -> Test:
    place, names = naming.place(left), naming.names(left)
    if right.value is None:
        return none_test(place or naming.text(left), names)
    if right.value is True or right.value is False:
        inner = test_of(left, naming)
        return inner if right.value else Not(inner)
    text = f"{place or naming.text(left)} == {right.value!r}"
    return Atom(text, names, equals=(place, repr(right.value)) if place else None)


def outcome(test: Test, facts: Facts) -> bool | None:
    """Return how a test comes out on a path, None where the path does not know."""
    if isinstance(test, Known):
        return test.value
    if isinstance(test, Not):
        inner = outcome(test.test, facts)
        return None if inner is None else not inner
    if isinstance(test, Atom):
        return _atom_outcome(test, facts)
    stops = isinstance(test, Any_)
    unknown = False
    for part in test.tests:
        result = outcome(part, facts)
        if result is stops:
            return stops
        unknown = unknown or result is None
    return None if unknown else not stops


def _atom_outcome(atom: Atom, facts: Facts) -> bool | None:
    if (atom.text, True) in facts:
        return True
    if (atom.text, False) in facts:
        return False
    if not facts:
        return None
    if atom.text.startswith("isinstance("):
        return False if (f"{_checked_type(atom.text)} is None", True) in facts else None
    if atom.equals is not None:
        start = f"{atom.equals[0]} == "
        if any(truth and text.startswith(start) for text, truth in facts):
            return False
    return None


def assume(test: Test, value: bool, facts: Facts) -> list[Facts]:
    """Return what a path knows after the test came out as `value`: one set for each way in which it can."""
    if isinstance(test, Known):
        return [facts] if test.value is value else []
    if isinstance(test, Not):
        return assume(test.test, not value, facts)
    if isinstance(test, Atom):
        known = _atom_outcome(test, facts)
        if known is not None:
            return [facts] if known is value else []
        return [facts | _implied(test, value)]
    if value is isinstance(test, All):
        ways = [facts]
        for part in test.tests:
            ways = [after for way in ways for after in assume(part, value, way)][:_FORKS]
        return ways
    return _first_decides(test.tests, value, facts)


def _first_decides(tests: tuple[Test, ...], value: bool, facts: Facts) -> list[Facts]:
    ways: list[Facts] = []
    before = [facts]
    for part in tests:
        ways += [after for way in before for after in assume(part, value, way)]
        before = [after for way in before for after in assume(part, not value, way)]
    return ways[:_FORKS]


def _implied(atom: Atom, value: bool) -> Facts:
    found = {(atom.text, value)}
    if atom.place and atom.text == atom.place and value:
        found.add((f"{atom.place} is None", False))
    elif atom.place and atom.text == f"{atom.place} is None" and value:
        found.add((atom.place, False))
    elif value and (checked := _checked_type(atom.text)):
        found.add((f"{checked} is None", False))
    return frozenset(found)


def _checked_type(text: str) -> str:
    """Return what an `isinstance` test looks at, else ""."""
    return text[len("isinstance(") :].split(",")[0] if text.startswith("isinstance(") else ""


def atoms(test: Test) -> list[Atom]:
    """Return the atoms of a test, in order."""
    if isinstance(test, Atom):
        return [test]
    if isinstance(test, Not):
        return atoms(test.test)
    return [a for part in test.tests for a in atoms(part)] if isinstance(test, All | Any_) else []


@cache
def subject_of(text: str) -> str:
    """Return what a fact is about: "x" for "x", "x is None", "x == 3" and "isinstance(x, T)"."""
    if text.startswith("isinstance("):
        return text[len("isinstance(") :].split(",")[0]
    return text.removesuffix(" is None").split(" == ")[0]
