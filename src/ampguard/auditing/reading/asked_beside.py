"""Divisors that another line of the function asks about: who writes `if left > 0` thinks that it may be 0.

`if left > 0 and total % left: raise ...` and then `total // left` under no test: nothing is done about the zero. The
divisor has one value in its function, and the division stands under no test that the question does not stand under.
"""

import ast

from ampguard.auditing.reading.guards import excludes_zero, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function
from ampguard.auditing.reading.zeros import Zero


def asked_beside(module: Module, right: ast.expr) -> Zero | None:
    """Return the zero of a name that a test of the same function compares with 0, while this use is under none."""
    function = module.tree.function(right)
    if not isinstance(right, ast.Name) or not isinstance(function, FUNCTIONS):
        return None
    asked = module.once("names asked about", lambda: _asked(module)).get((function, right.id))
    if not asked:
        return None
    around = {id(test) for test, _ in tests_before(module, right)}
    before = [
        test
        for test in asked
        if test.lineno < right.lineno and around <= {id(test), *(id(t) for t, _ in tests_before(module, test))}
    ]
    if not before or not _has_one_value(module, right.id, function):
        return None
    why = f"line {before[-1].lineno} takes for a number that may be 0"
    return Zero("nothing", why, right.lineno, frozenset({right.id}))


def _asked(module: Module) -> dict[tuple[ast.AST, str], list[ast.expr]]:
    """Return the tests that compare a name with 0, by function and name, in source order: `n > 0`, `n == 0`."""
    found: dict[tuple[ast.AST, str], list[ast.expr]] = {}
    for part in module.tree.all(ast.Compare):
        test = _test_of(module, part) if isinstance(part.left, ast.Name) and _with_zero(part) else None
        if test is not None:
            place = frozenset({part.left.id})
            if any(excludes_zero(module, part, truth, place) for truth in (True, False)):
                found.setdefault((module.tree.scope(test), part.left.id), []).append(test)
    return found


def _test_of(module: Module, part: ast.Compare) -> ast.expr | None:
    """Return the test of an `if` that a comparison is a part of."""
    below: ast.AST = part
    for above in module.tree.above(part):
        if isinstance(above, ast.If | ast.IfExp) and below is above.test:
            return above.test
        if isinstance(above, ast.stmt):
            return None
        below = above
    return None


def _with_zero(test: ast.Compare) -> bool:
    """Whether a comparison tells 0 from other numbers; `n < 0` asks only about what is less."""
    zero = test.comparators[0]
    plain = isinstance(zero, ast.Constant) and zero.value == 0 and zero.value is not False
    return plain and isinstance(test.ops[0], ast.Gt | ast.LtE | ast.Eq | ast.NotEq)


def _has_one_value(module: Module, name: str, function: Function) -> bool:
    """Whether a name is a parameter that is kept, or is given a value once, that is no literal."""
    stored = [n for n in module.tree.named(name, function) if not isinstance(n.ctx, ast.Load)]
    given = any(arg.arg == name for arg, _ in parameters(function))
    if len(stored) + given != 1:
        return False
    made = module.tree.parents[stored[0]] if stored else None
    return made is None or (isinstance(made, ast.Assign) and not isinstance(made.value, ast.Constant))
