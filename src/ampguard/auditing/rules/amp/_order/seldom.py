"""Steps that come only every k-th time, by a remainder, a counter that starts anew, or a `continue` before them."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Loop, key, walk, walk_scope

_GATHERED = regex(r"accum|micro_?(batch|step)", re.IGNORECASE)


def every_kth(module: Module, node: ast.AST, loop: Loop | None) -> ast.If | None:
    """Return the test that lets a node run only every k-th time in its loop or function.

    Either the node stands in it, or behind it where its branch goes on with the next batch.
    """
    below: ast.AST = node
    for above in module.tree.above(node):
        if isinstance(above, ast.If) and below is not above.test and counts(module, above.test, loop):
            return above
        for leaving in _leaving_before(above, below):
            if counts(module, leaving.test, loop):
                return leaving
        if above is loop or isinstance(above, FUNCTIONS):
            return None
        below = above
    return None


def _leaving_before(block: ast.AST, item: ast.AST) -> Iterator[ast.If]:
    """Walk the `if ...: continue` and `if ...: return` that stand before an item in its block."""
    for items in (getattr(block, field, None) for field in ("body", "orelse", "finalbody")):
        if isinstance(items, list) and any(item is at for at in items):
            before = items[: next(i for i, at in enumerate(items) if at is item)]
            tests = (s for s in before if isinstance(s, ast.If))
            yield from (s for s in tests if isinstance(s.body[-1], ast.Continue | ast.Return))


def counts(module: Module, test: ast.expr, loop: Loop | None, depth: int = 2) -> bool:
    """Whether a test asks how many times something has come: by a remainder, or by what is counted and starts anew."""
    for at in walk(test):
        if isinstance(at, ast.BinOp) and isinstance(at.op, ast.Mod):
            return not isinstance(at.left, ast.Constant)
        if isinstance(at, ast.Compare) and (starts_anew(module, at.left, loop) or _is_gathered(at)):
            return True
    part = test.operand if isinstance(test, ast.UnaryOp) else test
    if depth and isinstance(part, ast.Name):
        values = module.names.values(part.id, part)
        return len(values) == 1 and counts(module, values[0], loop, depth - 1)
    place = target(module, part) if depth and isinstance(part, ast.Call) else None
    returned = walk_scope(place[1]) if place is not None and place[0] is module else ()
    values = [n.value for n in returned if isinstance(n, ast.Return) and n.value is not None]
    return len(values) == 1 and counts(module, values[0], None, 0)


def _is_gathered(test: ast.Compare) -> bool:
    word = (key(test.left) or "").rpartition(".")[2]
    return bool(_GATHERED.search(word)) and isinstance(test.ops[0], ast.GtE | ast.Gt | ast.Eq | ast.Lt | ast.NotEq)


def starts_anew(module: Module, node: ast.expr, loop: Loop | None) -> bool:
    """Whether what is compared is counted up or down in a loop, and gets its first value again there."""
    place = key(node)
    if place is None or loop is None:
        return False
    counted = any(key(n.target) == place and module.tree.inside(n, loop) for n in module.tree.all(ast.AugAssign))
    return counted and any(
        any(key(t) == place for t in n.targets)
        and n.lineno > node.lineno  # what starts anew before it is asked tells of something else, as of bad batches
        and module.tree.inside(n, loop)
        and _is_first(n.value, place)
        for n in module.tree.all(ast.Assign)
    )


def _is_first(value: ast.expr, place: str) -> bool:
    """Whether a value is a number or a setting: not made from what is counted, nor from a call."""
    return isinstance(value, ast.Constant | ast.Name | ast.Attribute | ast.Subscript) and key(value) != place


def training_loop(module: Module, node: ast.AST, passes: list[ast.AST]) -> Loop | None:
    """Return the innermost loop around a node that holds a backward pass: not one over optimizers."""
    return next((loop for loop in module.tree.loops(node) if any(module.tree.inside(p, loop) for p in passes)), None)


def what_is_walked(module: Module, node: ast.expr | None) -> str:
    """Return what an optimizer is called: where a loop gives it its name, what that loop goes over."""
    if isinstance(node, ast.Name):
        for loop in module.tree.loops(node):
            if isinstance(loop, ast.For) and node.id in {key(n) for n in walk(loop.target)}:
                return "each of " + ast.unparse(loop.iter)
    return key(node) or "" if node is not None else ""
