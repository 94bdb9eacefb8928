"""Loops that take no training step, in each pass of which waiting for the device still costs."""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, Scope, key, receiver, walk, walk_scope

_OFF = ("no_grad", "inference_mode")


def judging_loop(module: Module, node: ast.AST) -> Loop | None:
    """Return the loop without gradients, as evaluations have, in whose every pass the node runs; None if there is none.

    Gradients are off where a `with` around the loop or in it, or a decorator, says so.
    """
    loop = _every_pass(module, node)
    return loop if loop is not None and _gradients_off(module, node) else None


def fetched_one_by_one(module: Module) -> Iterator[tuple[ast.Call, Loop]]:
    """Walk `starts[i].item()` in the loop over `i`, with that loop: each element is waited for on its own."""
    if not module.mentions(("].item()",)) or "torch" not in module.text:
        return
    for call in module.calls_of("item"):
        owner = receiver(call)
        loop = _every_pass(module, call) if isinstance(owner, ast.Subscript) and not call.args else None
        if loop is None or not isinstance(loop, ast.For) or _is_array(module, owner):  # type: ignore[arg-type]
            continue
        if _counted_by(loop) & {n.id for n in walk(owner.slice) if isinstance(n, ast.Name)}:  # type: ignore[union-attr]
            yield call, loop


def _every_pass(module: Module, node: ast.AST) -> Loop | None:
    """Return the innermost loop in whose every pass the node runs, or in all but the first."""
    below = node
    for at in module.tree.above(node):
        if isinstance(at, Loop):
            return at if below in at.body else None
        if isinstance(at, ast.If) and below in at.body and _is_behind_the_first(at.test):
            below = at
            continue
        if isinstance(at, Scope | ast.If | ast.IfExp | ast.BoolOp | ast.ExceptHandler | ast.comprehension):
            return None
        below = at
    return None


def _is_behind_the_first(test: ast.expr) -> bool:
    """Whether a condition holds from some pass on: `i > 0`, `step >= warmup`."""
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Gt | ast.GtE) and len(test.ops) == 1


def _gradients_off(module: Module, node: ast.AST) -> bool:
    for at in module.tree.above(node):
        if isinstance(at, ast.With | ast.AsyncWith):
            if any(word in ast.unparse(item.context_expr) for item in at.items for word in _OFF):
                return True
        elif isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef):
            return any(word in ast.unparse(decorator) for decorator in at.decorator_list for word in _OFF)
    return False


def _counted_by(loop: ast.For) -> set[str]:
    """Return the names that tell the passes of a loop over numbers apart, with what is worked out from them in it."""
    over = loop.iter
    if not (isinstance(over, ast.Call) and key(over.func) in ("range", "enumerate")):
        return set()
    target = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) and loop.target.elts else loop.target
    counted = {target.id} if isinstance(target, ast.Name) else set()
    for node in walk_scope(loop):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            used = {n.id for n in walk(node.value) if isinstance(n, ast.Name)}
            if used & counted and not any(isinstance(n, ast.Call) for n in walk(node.value)):
                counted.add(node.targets[0].id)
    return counted


def _is_array(module: Module, owner: ast.Subscript) -> bool:
    """Whether what is indexed comes from numpy, whose numbers are on the host."""
    held = owner.value
    values = module.names.values(held.id, owner) if isinstance(held, ast.Name) else [held]
    texts = (ast.unparse(value) for value in values)
    return any(text.startswith(("np.", "numpy.")) or ".numpy()" in text or ".cpu()" in text for text in texts)
