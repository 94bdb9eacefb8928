"""What paths need to know no longer: after the last test about something, paths that differ in it alone are one.

Nothing is lost by it: a fact that nobody asks about decides nothing. What is asked inside a loop is needed until the
loop is left, because the next pass may ask again; what a handler asks is needed all through the `try`.
"""

from collections.abc import Iterator

from ampguard.auditing.flow.asked import bodies, subjects, tests_of
from ampguard.auditing.flow.conditions import Test
from ampguard.auditing.flow.skeleton import Guarded, Op, Repeat


def dead_after(ops: list[Op]) -> dict[int, frozenset[str]]:
    """Return, by an op's `id`, the subjects that no test asks about once it is done, and one did before."""
    dead: dict[int, frozenset[str]] = {}
    _before(ops, frozenset(), dead)
    return dead


def _before(ops: list[Op], after: frozenset[str], dead: dict[int, frozenset[str]]) -> frozenset[str]:
    """Return what is asked from here on, where `after` is asked behind these; note what dies where."""
    for op in reversed(ops):
        before = _asked_from(op, after, dead)
        if gone := before - after:
            dead[id(op)] = gone
        after = before
    return after


def _asked_from(op: Op, after: frozenset[str], dead: dict[int, frozenset[str]]) -> frozenset[str]:
    own = after | subjects(tests_of(op))
    if isinstance(op, Repeat | Guarded):
        own |= subjects(test for body in bodies(op) for test in _all_tests(body))
        for body in bodies(op):
            _before(body, own, dead)
        return own
    return own.union(*(_before(body, after, dead) for body in bodies(op)))


def _all_tests(ops: list[Op]) -> Iterator[Test]:
    for op in ops:
        yield from tests_of(op)
        for body in bodies(op):
            yield from _all_tests(body)
