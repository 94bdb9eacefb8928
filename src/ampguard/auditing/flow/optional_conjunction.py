"""Uses of what gets its value only where two things hold: `if pool is None and device == "cpu": pool = Pool()`.

Where it is None and the other half does not hold, it is None behind the test still.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import asks_about, body_text, failing_uses, may_need
from ampguard.auditing.reading.guards import leaves
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, is_none_literal, key, walk_scope

_TESTING = (ast.If, ast.IfExp, ast.While, ast.Assert)


def uses_of_half_given(module: Module) -> Iterator[Use]:
    """Walk the first use of each such name in each function."""
    if not module.mentions(("is None and ", "and not ", " is None\n")):
        return
    for branch in module.tree.all(ast.If):
        function = module.tree.function(branch)
        name = _half_given(module, branch) if function is not None and not branch.orelse else None
        if name is None or function is None or not may_need(name, body_text(module, function)):
            continue
        origin = _none_by_then(module, function, name, branch)
        use = _first_use(module, function, name, branch) if origin is not None else None
        if use is not None and origin is not None:
            yield Use(name, use, origin)


def _half_given(module: Module, branch: ast.If) -> str | None:
    """Return the name that a test asks about beside something else, and that its body gives a value on each way."""
    test = branch.test
    if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)):
        return None
    asked = [name for value in test.values if (name := _asked_for_none(value)) is not None]
    if len(asked) != 1 or module.tree.class_of(branch) is module.tree.parents[branch] or leaves(branch.body):
        return None
    name = asked[0]
    given = [n for n in walk_scope(branch) if isinstance(n, ast.Assign) and any(key(t) == name for t in n.targets)]
    return name if given and not any(is_none_literal(n.value) for n in given) else None


def _asked_for_none(test: ast.expr) -> str | None:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand.id if isinstance(test.operand, ast.Name) else None
    is_none = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is) and is_none_literal(test.comparators[0])
    return test.left.id if is_none and isinstance(test.left, ast.Name) else None  # type: ignore[attr-defined]


def _none_by_then(module: Module, function: Function, name: str, branch: ast.If) -> ast.AST | None:
    """Return the parameter, None by default, or the assignment of None, that alone gives a name its first value."""
    before = [
        n for n in module.tree.named(name, function) if not isinstance(n.ctx, ast.Load) and n.lineno < branch.lineno
    ]
    given = next((a for a, d in parameters(function) if a.arg == name and d is not None and is_none_literal(d)), None)
    if given is not None:
        return given if not before else None
    statement = module.tree.statement(before[0]) if len(before) == 1 else None
    if not isinstance(statement, ast.Assign) or not is_none_literal(statement.value):
        return None
    return statement if module.tree.parents[statement] is function else None


def _first_use(module: Module, function: Function, name: str, branch: ast.If) -> ast.AST | None:
    """Return the first use behind a test, where nothing else of the function asks about the name or gives it one."""
    end = branch.end_lineno or branch.lineno
    for node in walk_scope(function):
        if module.tree.inside(node, branch):
            continue
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store) and node.lineno > end:
            return None
        tests = [node.test] if isinstance(node, _TESTING) else node.values if isinstance(node, ast.BoolOp) else []
        if any(asks_about(test, name) for test in tests):
            return None
    words = _words_of_the_rest(branch, name)
    for use in failing_uses(module, function, name):
        if use.lineno > end and _is_open(module, function, use, branch, words):  # type: ignore[attr-defined]
            return use
    return None


def _words_of_the_rest(branch: ast.If, name: str) -> re.Pattern[str]:
    """Return what speaks of the other half of a test, or of the name."""
    rest = (v for v in branch.test.values if _asked_for_none(v) != name)  # type: ignore[attr-defined]
    words = {word for part in rest for word in re.findall(r"[A-Za-z_]{2,}", ast.unparse(part))}
    words -= {"is", "not", "None", "and", "or", "self", "args", "in", "config", "cfg", "type", "len"}
    return re.compile("|".join(rf"\b{re.escape(w)}\b" for w in sorted({*words, name})))


def _is_open(module: Module, function: Function, use: ast.AST, branch: ast.If, words: re.Pattern[str]) -> bool:
    """Whether a use runs whenever the test has run, or under tests that speak of nothing that the test speaks of."""
    if any(True for _ in module.tree.handlers_around(use)) or not module.tree.inside(use, module.tree.parents[branch]):
        return False
    for above in module.tree.above(use):
        if above is function:
            return True
        if isinstance(above, (*FUNCTIONS, ast.Lambda, ast.ExceptHandler)):
            return False
        tests = [above.test] if isinstance(above, _TESTING) else above.values if isinstance(above, ast.BoolOp) else []
        if not module.tree.inside(branch, above) and any(words.search(ast.unparse(test)) for test in tests):
            return False
    return False
