"""What is known not to be zero (or empty) where an expression is evaluated.

Looks at the tests that hold on every way to the expression: the branches around it, operands of `and` and `or` before
it, early returns, asserts, the loops around it (a loop over `xs` runs only where `xs` has items), earlier statements
that would have raised already (`xs[0]`, `max(xs)`), and handlers that catch the division. Nothing is assumed of tests
that merely mention a name: `if its > 1: ... else: 1 / its` leaves zero in the second branch.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Scope, called, children, key, receiver, walk

_CATCHES_DIVISION = frozenset({"ZeroDivisionError", "ArithmeticError", "Exception", "BaseException"})
_LEAVES = frozenset({"exit", "_exit", "abort", "skip", "fail", "error"})
_WRAPPERS = frozenset(
    {"enumerate", "tqdm", "trange", "range", "zip", "reversed", "sorted", "iter", "list", "tuple"}
) | {
    "track",
    "items",
    "values",
    "keys",
    "progress_bar",
}
_RAISES_WHEN_EMPTY = frozenset(
    {"max", "min", "stack", "cat", "concat", "concatenate", "vstack", "hstack", "choice"}
) | {
    "next",
    "mean",
    "median",
    "pop",
    "popleft",
}

Test = tuple[ast.expr, bool]
"""A condition and the truth value that it had."""


def tests_before(module: Module, node: ast.AST) -> Iterator[Test]:
    """Walk the conditions that hold wherever `node` is evaluated, innermost first, inside its function."""
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, Scope) and not isinstance(at, ast.Lambda):
            yield from _earlier(at.body, below)
            return
        yield from _from_parent(at, below)
        below = at


def nonzero(module: Module, node: ast.AST, spellings: frozenset[str]) -> bool:
    """Whether one of the things spelled so is known not to be zero or empty where `node` is evaluated.

    Args:
        module: The file.
        node: The place.
        spellings: Source spellings; each is such that it is not zero only where the value in question is not.
    """
    if any(excludes_zero(module, test, truth, spellings) for test, truth in tests_before(module, node)):
        return True
    return _in_loop_over(module, node, spellings) or _would_have_raised(module, node, spellings)


def caught(module: Module, node: ast.AST) -> bool:
    """Whether a ZeroDivisionError raised at the node is caught inside its function."""
    return any(
        handler.type is None or _names(handler.type) & _CATCHES_DIVISION
        for attempt in module.tree.handlers_around(node)
        for handler in attempt.handlers
    ) or _suppressed(module, node)


def excludes_zero(module: Module, test: ast.expr, truth: bool, spellings: frozenset[str], *, depth: int = 0) -> bool:
    """Whether `test` being `truth` means that one of the things spelled so is not zero, not empty."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return excludes_zero(module, test.operand, not truth, spellings, depth=depth)
    if isinstance(test, ast.BoolOp):
        some = any if isinstance(test.op, ast.And) == truth else all
        return some(excludes_zero(module, value, truth, spellings, depth=depth) for value in test.values)
    if isinstance(test, ast.Compare):
        return _comparison(module, test, truth, spellings)
    if isinstance(test, ast.NamedExpr):
        return truth and bool(spelled(test) & spellings)
    if isinstance(test, ast.Call):
        return _call(test, truth, spellings)
    if truth and spelling(test) in spellings:
        return True
    return depth < 2 and isinstance(test, ast.Name) and _named(module, test, truth, spellings, depth)


def spelling(node: ast.expr) -> str:
    """Return the source spelling by which two expressions are taken for the same: `len(xs)`, `self.n`."""
    return key(node) or ast.unparse(node)


def spelled(node: ast.expr) -> set[str]:
    """Return every spelling of an expression's value: a walrus has that of its name too; `float(x)` that of `x`."""
    if isinstance(node, ast.NamedExpr):
        return {node.target.id} | spelled(node.value)
    found = {spelling(node)}
    if isinstance(node, ast.Call) and called(node) in ("float", "int", "len", "abs", "bool", "list") and node.args:
        found |= spelled(node.args[0])
    return found


def leaves(block: list[ast.stmt]) -> bool:
    """Whether control never comes to the end of the block: it returns, raises, continues, breaks or exits."""
    last = block[-1] if block else None
    if isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break):
        return True
    if isinstance(last, ast.If):
        return bool(last.orelse) and leaves(last.body) and leaves(last.orelse)
    if isinstance(last, ast.With | ast.AsyncWith):
        return leaves(last.body)
    return isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and called(last.value) in _LEAVES


def _from_parent(at: ast.AST, below: ast.AST) -> Iterator[Test]:
    if isinstance(at, ast.If | ast.While | ast.IfExp):
        body = at.body if isinstance(at.body, list) else [at.body]
        if below in body:
            yield at.test, True
        elif below is not at.test and isinstance(at, ast.If | ast.IfExp):
            yield at.test, False
    elif isinstance(at, ast.BoolOp):
        yield from ((value, isinstance(at.op, ast.And)) for value in at.values[: at.values.index(below)])  # type: ignore[arg-type]
    elif isinstance(at, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) and not isinstance(
        below, ast.comprehension
    ):
        yield from ((test, True) for generator in at.generators for test in generator.ifs)
    for name in ("body", "orelse", "finalbody", "handlers"):
        block = getattr(at, name, None)
        if isinstance(block, list) and below in block:
            yield from _earlier(block, below)


def _earlier(block: list[ast.stmt] | ast.expr, below: ast.AST) -> Iterator[Test]:
    if not isinstance(block, list) or below not in block:
        return
    for statement in reversed(block[: block.index(below)]):
        if isinstance(statement, ast.Assert):
            yield statement.test, True
        elif isinstance(statement, ast.If):
            if leaves(statement.body):
                yield statement.test, False
                yield from _else_leaves(statement)
            elif statement.orelse and leaves(statement.orelse):
                yield statement.test, True
        elif isinstance(statement, ast.While) and not any(isinstance(n, ast.Break) for n in walk(statement)):
            yield statement.test, False


def _else_leaves(statement: ast.If) -> Iterator[Test]:
    """Walk the conditions of the `elif`s that leave too."""
    rest = statement.orelse
    while len(rest) == 1 and isinstance(rest[0], ast.If) and leaves(rest[0].body):
        yield rest[0].test, False
        rest = rest[0].orelse


def _comparison(module: Module, test: ast.Compare, truth: bool, spellings: frozenset[str]) -> bool:
    sides = [test.left, *test.comparators]
    pairs = list(zip(sides, test.ops, sides[1:], strict=False))
    if not truth and len(pairs) > 1:
        return False
    return any(_pair(module, pair, truth, spellings) for pair in pairs)


def _pair(module: Module, pair: tuple[ast.expr, ast.cmpop, ast.expr], truth: bool, spellings: frozenset[str]) -> bool:
    left, op, right = pair
    if isinstance(op, ast.In if truth else ast.NotIn):
        return bool(spelled(right) & spellings)  # something is in it, so it is not empty
    if isinstance(op, ast.Is | ast.IsNot):
        return False
    sign = _SIGNS.get(type(op))
    if sign is None:
        return False
    if not truth:
        sign = _NEGATED[sign]
    if sign == "==" and isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod):
        return _remainder(left.left, right, spellings)
    if _meant(module, left) & spellings:
        return _beyond_zero(sign, right)
    return bool(_meant(module, right) & spellings) and _beyond_zero(_MIRRORED[sign], left)


def _remainder(counted: ast.expr, rest: ast.expr, spellings: frozenset[str]) -> bool:
    """Whether `counted % n == rest` leaves zero out: `i % 100 == 99`, `(i + 1) % 100 == 0`."""
    zero = isinstance(rest, ast.Constant) and rest.value == 0
    if zero and isinstance(counted, ast.BinOp) and isinstance(counted.op, ast.Add | ast.Sub):
        return bool(spelled(counted.left) & spellings)
    return not zero and bool(spelled(counted) & spellings)


def _meant(module: Module, node: ast.expr) -> set[str]:
    """Return the spellings of a value, with those of what a name is assigned once: `n = len(xs)`."""
    values = module.names.values(node.id, node) if isinstance(node, ast.Name) else []
    return spelled(node) | (spelled(values[0]) if len(values) == 1 else set())


_SIGNS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}
_NEGATED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}


def _beyond_zero(sign: str, bound: ast.expr) -> bool:
    """Whether `value SIGN bound` leaves zero out; a bound that is not a number is taken for a positive one."""
    number = bound.value if isinstance(bound, ast.Constant) else None
    if isinstance(number, str) and not number:
        number = 0
    if isinstance(bound, ast.List | ast.Tuple | ast.Dict) and not ast.unparse(bound).strip("[](){}"):
        number = 0
    if not isinstance(number, int | float):
        return sign in (">", ">=")
    return {
        ">": number >= 0,
        ">=": number > 0,
        "<": number <= 0,
        "<=": number < 0,
        "==": number != 0,
        "!=": number == 0,
    }[sign]


def _call(test: ast.Call, truth: bool, spellings: frozenset[str]) -> bool:
    """Calls that ask about a thing count as its guard: `any(xs)`, `bool(n)`, `self.has_items(xs)`, `xs.any()`."""
    about = set().union(*(spelled(a) for a in test.args if not isinstance(a, ast.Starred)), spelled(test))
    owner = receiver(test)
    if owner is not None:
        about |= spelled(owner)
    if not about & spellings:
        return False
    return truth if called(test) in ("any", "bool", "len", "all") else called(test) not in ("isinstance", "hasattr")


def _named(module: Module, test: ast.Name, truth: bool, spellings: frozenset[str], depth: int) -> bool:
    """A condition kept in a variable: `has_items = len(xs) > 0`."""
    values = module.names.values(test.id, test)
    return len(values) == 1 and excludes_zero(module, values[0], truth, spellings, depth=depth + 1)


def _in_loop_over(module: Module, node: ast.AST, spellings: frozenset[str]) -> bool:
    below: ast.AST = node
    for at in module.tree.above(node):
        if isinstance(at, Scope):
            return False
        if isinstance(at, ast.For | ast.AsyncFor) and below in at.body and _iterated(at.iter) & spellings:
            return True
        if isinstance(at, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            inner = at.generators[1:] if below is at.generators[0] else at.generators
            if below not in at.generators and any(_iterated(g.iter) & spellings for g in inner):
                return True
        below = at
    return False


def _iterated(node: ast.expr) -> set[str]:
    """Return the spellings of what has items where a loop over the expression has run."""
    found = spelled(node)
    if isinstance(node, ast.Call) and called(node) in _WRAPPERS:
        owner = receiver(node)
        for part in (*node.args, *([owner] if owner is not None else ())):
            found |= _iterated(part)
    if isinstance(node, ast.Subscript):
        found |= spelled(node.value)
    return found


def _would_have_raised(module: Module, node: ast.AST, spellings: frozenset[str]) -> bool:
    """Whether a statement before it, on every way, raises where the thing is empty."""
    at: ast.AST = node
    while not isinstance(at, Scope):
        parent = module.tree.parents[at]
        for name in ("body", "orelse", "finalbody"):
            block = getattr(parent, name, None)
            if isinstance(block, list) and at in block:
                before = block[: block.index(at)]
                if any(_raises_when_empty(module, s, spellings) for s in before if _is_simple(s)):
                    return True
        at = parent
    return False


def _is_simple(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr | ast.AugAssign | ast.Return)


def _raises_when_empty(module: Module, statement: ast.stmt, spellings: frozenset[str]) -> bool:
    needed = module.once(("needs items", statement), lambda: frozenset(_needing_items(statement)))
    return not needed.isdisjoint(spellings)


def _needing_items(statement: ast.stmt) -> Iterator[str]:
    """Walk the spellings of what must have items for a statement not to raise."""
    stack: list[ast.AST] = [statement]
    while stack:
        part = stack.pop()
        if isinstance(part, ast.IfExp | ast.BoolOp | ast.Lambda | ast.ListComp | ast.GeneratorExp):
            continue  # may not be evaluated
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load) and _is_index(part.slice):
            yield from spelled(part.value)
        elif isinstance(part, ast.Call) and called(part) in _RAISES_WHEN_EMPTY:
            yield from _given_items(part)
        stack.extend(children(part))


def _given_items(call: ast.Call) -> set[str]:
    """Return the spellings of what a call needs items of: `max(xs)`, `xs.pop()`."""
    if any(k.arg == "default" for k in call.keywords) or (called(call) == "next" and len(call.args) > 1):
        return set()
    owner = receiver(call)
    if called(call) in ("pop", "popleft"):
        return spelled(owner) if owner is not None else set()
    if called(call) in ("mean", "median") and key(owner) != "statistics":
        return set()
    alone = len(call.args) == 1 or called(call) not in ("max", "min")  # `max(n, 0)` compares numbers
    return _iterated(call.args[0]) if call.args and alone else set()


def _is_index(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def _names(node: ast.expr) -> set[str]:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {(key(part) or "").split(".")[-1] for part in parts}


def _suppressed(module: Module, node: ast.AST) -> bool:
    """Whether a `with contextlib.suppress(...)` around it catches the division."""
    for at in module.tree.above(node):
        if isinstance(at, Scope):
            return False
        for item in at.items if isinstance(at, ast.With) else ():
            call = item.context_expr
            suppresses = isinstance(call, ast.Call) and called(call) in ("suppress", "raises")
            if suppresses and any(_names(argument) & _CATCHES_DIVISION for argument in call.args):  # type: ignore[attr-defined]
                return True
    return False
