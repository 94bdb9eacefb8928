"""What a skeleton asks: its tests, and which of them decide what runs."""

from collections.abc import Iterable, Iterator

from ampguard.auditing.flow.conditions import Atom, Test, atoms, subject_of
from ampguard.auditing.flow.skeleton import Bind, Block, Bound, Choose, Do, Guarded, Leave, Op, Repeat


def tests_of(op: Op) -> Iterator[Test]:
    """Walk the tests that an op itself asks, its bodies aside."""
    if isinstance(op, Choose | Repeat) and op.test is not None:
        yield op.test
    elif isinstance(op, Bind):
        yield from bound_tests(op.bound)


def bound_tests(bound: Bound) -> Iterator[Test]:
    """Walk what an assignment asks: the tests of its value, and what is known of a place that it copies."""
    if bound.test is not None:
        yield bound.test
    if bound.kind == "same":
        yield Atom(bound.place, frozenset(), place=bound.place)
    for part in bound.parts or ():
        yield from bound_tests(part)


def bodies(op: Op) -> list[list[Op]]:
    """Return the bodies of an op, in source order."""
    if isinstance(op, Choose | Repeat):
        return [op.body, op.orelse]
    if isinstance(op, Guarded):
        return [op.body, *op.handlers, op.orelse, op.final]
    return [op.body] if isinstance(op, Block) else []


def all_ops(ops: list[Op]) -> Iterator[Op]:
    """Walk every op of a skeleton, in source order."""
    for op in ops:
        yield op
        for body in bodies(op):
            yield from all_ops(body)


def subjects(tests: Iterable[Test]) -> frozenset[str]:
    """Return what the parts of tests are about."""
    return frozenset(subject_of(atom.text) for test in tests for atom in atoms(test))


def deciding(ops: list[Op], places: frozenset[str]) -> set[str]:
    """Return the subjects whose tests decide whether an event runs, or what one of the places is."""
    found: set[str] = set()
    for op in all_ops(ops):
        if isinstance(op, Choose) and _matters([*op.body, *op.orelse], places):
            found |= subjects([op.test])
        elif isinstance(op, Bind) and op.place in places:
            found |= subjects(bound_tests(op.bound))
    return found


def worth_telling(ops: list[Op], known: set[str]) -> set[str]:
    """Return the subjects of which an assignment should be remembered.

    These are the ones in `known`, those whose tests leave a loop or a function, and those that such a subject is
    assigned from. A test that only raises (an assertion) is no reason: the paths behind it are those that passed.
    """
    every = list(all_ops(ops))
    found = known | {s for op in every if isinstance(op, Choose) and _leaves(op) for s in subjects([op.test])}
    found |= {s for op in every if isinstance(op, Repeat) and op.test is not None for s in subjects([op.test])}
    binds = [op for op in every if isinstance(op, Bind)]
    size = -1
    while size != len(found):
        size = len(found)
        for op in binds:
            if op.place in found:
                found |= subjects(bound_tests(op.bound))
    return found


def _matters(ops: list[Op], places: frozenset[str]) -> bool:
    return any(isinstance(op, Do) or (isinstance(op, Bind) and op.place in places) for op in all_ops(ops))


def _leaves(op: Choose) -> bool:
    return any(isinstance(at, Leave) and at.kind != "raise" for at in all_ops([*op.body, *op.orelse]))
