"""Calls that hand on a parameter, None by default, to a function of the file that reckons with it.

`read(channels=None)` calls `convert(wav, channels)`, and that asks `channels == 1`, which None is not, before it gets
to `wav.shape[0] >= channels`. Equality asks nothing of None: the way to the order is open. What a function reckons with
that is None by its own default is left alone: the numbers of a library are given by all who call it.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.optional import Use
from ampguard.auditing.flow.optional_plain import handed_names, handing_call, is_stub, needed_by
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import Function, called, is_none_literal, key, walk, walk_scope

_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_SIGNS = (ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.Add)
_ASKING = ("isinstance", "hasattr", "getattr", "callable", "type", "bool")


def sums_of_what_may_be_none(module: Module) -> Iterator[Use]:
    """Walk the calls that hand such a parameter on, the first for each parameter that needs a number."""
    handed = handed_names(module) if module.mentions(("=None", "= None")) else ()
    for function in module.functions if handed else ():
        if function.name not in handed or is_stub(function):
            continue
        for name, node in _first_sums(module, function).items():
            if _is_open(module, node, function) and _is_untold(module, function, name):
                handing = handing_call(module, function, name, loops=True)
                if handing is not None:
                    yield Use(handing[1].arg, *handing)


def _first_sums(module: Module, function: Function) -> dict[str, ast.AST]:
    """Return the first sum or order of each parameter of a function that is not None by its own default."""
    given = {arg.arg for arg, default in parameters(function) if default is None or not is_none_literal(default)}
    found: dict[str, ast.AST] = {}
    for name in sorted(given - {"self", "cls"}):
        for held in module.tree.named(name, function):
            node = module.tree.parents[held]
            sign = node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", None)
            if name not in found and isinstance(sign, _ORDERS + _SIGNS) and held in needed_by(node):
                found.update({name: node} if module.tree.scope(held) is function else {})
    return found


def _is_untold(module: Module, function: Function, name: str) -> bool:
    """Whether nothing in a function asks about a name but for equality and orders, and nothing gives it a value."""
    if any(not isinstance(held.ctx, ast.Load) for held in module.tree.named(name, function)):
        return False
    for node in walk(function):
        if isinstance(node, ast.Call) and called(node) in _ASKING and any(key(a) == name for a in node.args):
            return False
        if any(_asks(test, name) for test in _tests_of(node)):
            return False
        compares = isinstance(node, ast.Compare) and not isinstance(node.ops[0], (*_ORDERS, ast.Eq, ast.NotEq))
        if compares and any(key(part) == name for part in (node.left, *node.comparators)):  # type: ignore[attr-defined]
            return False
    return True


def _tests_of(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
        return [node.test]
    return node.values if isinstance(node, ast.BoolOp) else node.ifs if isinstance(node, ast.comprehension) else []


def _asks(test: ast.expr, name: str) -> bool:
    """Whether a test asks about a name in another way than by comparing it: for its truth."""
    if isinstance(test, ast.UnaryOp):
        return _asks(test.operand, name)
    if isinstance(test, ast.Compare):
        return False
    return any(isinstance(n, ast.Name) and n.id == name for n in walk(test)) and not isinstance(test, ast.BoolOp)


def _is_open(module: Module, node: ast.AST, function: Function) -> bool:
    """Whether None gets to a node: it always runs, or behind questions alone that None answers with no."""
    if any(True for _ in module.tree.handlers_around(node)):
        return False
    early = (n for n in walk_scope(function) if isinstance(n, ast.Return | ast.Raise | ast.Yield | ast.YieldFrom))
    below: ast.AST = node
    chain: list[ast.AST] = []
    for above in module.tree.above(node):
        if above is function:
            return not any(n.lineno < node.lineno and not any(module.tree.inside(n, c) for c in chain) for n in early)  # type: ignore[attr-defined]
        if isinstance(above, ast.If) and below is not above.test:
            if below not in above.orelse or not _is_equality(above.test):
                return False
            chain.append(above)
        elif isinstance(above, ast.BoolOp):
            if below is not above.values[0]:
                return False
        elif isinstance(above, ast.IfExp) and below is not above.test:
            return False
        elif not isinstance(
            above, ast.expr | ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Return | ast.If
        ):
            if not isinstance(above, ast.With | ast.keyword | ast.Assert):
                return False
        elif isinstance(above, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return False
        below = above
    return False


def _is_equality(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)
