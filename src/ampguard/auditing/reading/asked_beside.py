"""Divisors that another line of the function asks about: who writes `if left > 0` thinks that it may be 0.

`if left > 0 and total % left: raise ...` and then `total // left` under no test: nothing is done about the zero. The
divisor has one value in its function, and the division stands under no test that the question does not stand under.
"""

import ast

from ampguard.auditing.reading.guards import excludes_zero, tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, walk, walk_scope
from ampguard.auditing.reading.zeros import Zero


def asked_beside(module: Module, right: ast.expr) -> Zero | None:
    """Return the zero of a name that a test of the same function compares with 0, while this use is under none."""
    function = module.tree.function(right)
    if not isinstance(right, ast.Name) or not isinstance(function, FUNCTIONS):
        return None
    asked: dict[str, list[ast.expr]] = module.once(("names asked about", function), lambda: _asked(module, function))
    if right.id not in asked:
        return None
    around = {id(test) for test, _ in tests_before(module, right)}
    before = [
        test
        for test in asked[right.id]
        if test.lineno < right.lineno and around <= {id(test), *(id(t) for t, _ in tests_before(module, test))}
    ]
    if not before or not _has_one_value(module, right.id, function):
        return None
    why = f"line {before[-1].lineno} takes for a number that may be 0"
    return Zero("nothing", why, right.lineno, frozenset({right.id}))


def _asked(module: Module, function: Function) -> dict[str, list[ast.expr]]:
    """Return the names that tests of a function compare with 0, each with the tests: `n > 0`, `n == 0`, `n != 0`."""
    found: dict[str, list[ast.expr]] = {}
    for node in walk_scope(function):
        if not isinstance(node, ast.If | ast.IfExp):
            continue
        for part in walk(node.test):
            if isinstance(part, ast.Compare) and isinstance(part.left, ast.Name) and _with_zero(part):
                place = frozenset({part.left.id})
                if any(excludes_zero(module, part, truth, place) for truth in (True, False)):
                    found.setdefault(part.left.id, []).append(node.test)
    return found


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
