"""Gradient accumulation: which loop gathers gradients over how many micro-batches, and where it steps.

Two shapes are known: a loop that steps only where a counter is a multiple of k (`if (i + 1) % k == 0: step`), and an
inner loop over k micro-batches with the step behind it.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver
from ampguard.auditing.rules.amp._steps import backward_calls

ACCUMULATES = re.compile(r"accum|micro_?(batch|step)|micro$", re.IGNORECASE)


@dataclass(frozen=True)
class Accumulation:
    """One loop that gathers gradients.

    Attributes:
        loop: The loop over micro-batches.
        backward: The backward call in it.
        count: The expression for k.
        step: The optimizer's or scaler's step.
        test: The test that the step stands under, None where it stands behind the loop.
    """

    loop: Loop
    backward: ast.Call
    count: ast.expr
    step: ast.Call
    test: ast.If | None


def accumulations(module: Module) -> list[Accumulation]:
    """Return every accumulation of the file."""
    return module.once("accumulations", lambda: list(_accumulations(module)))


def _accumulations(module: Module) -> Iterator[Accumulation]:
    for backward in backward_calls(module):
        loop = next(module.tree.loops(backward), None)
        if loop is None:
            continue
        found = _every_kth(module, loop, backward) or _inner_loop(module, loop, backward)
        if found is not None:
            yield found


def _every_kth(module: Module, loop: Loop, backward: ast.Call) -> Accumulation | None:
    """Return the accumulation of a loop whose steps all stand under `... % k == ...`, the backward outside of it."""
    steps = _steps(module, loop)
    tests = [_modulo_above(module, step, loop) for step in steps]
    if not steps or any(t is None or module.tree.inside(backward, t[0]) for t in tests) or tests[0] is None:
        return None
    test, count = tests[0]
    return None if _zeroed_each_time(module, loop, test) else Accumulation(loop, backward, count, steps[0], test)


def _steps(module: Module, around: ast.AST) -> list[ast.Call]:
    found = [c for c in module.calls.get("step", ()) if module.tree.inside(c, around)]
    return [c for c in found if is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c))]


def _modulo_above(module: Module, step: ast.Call, loop: Loop) -> tuple[ast.If, ast.expr] | None:
    for at in module.tree.above(step):
        if at is loop:
            return None
        if isinstance(at, ast.If):
            count = _modulus(module, at.test)
            if count is not None and any(module.tree.inside(step, item) for item in at.body):
                return at, count
    return None


def _modulus(module: Module, test: ast.expr) -> ast.expr | None:
    """Return k of a test that is true every k-th time, also where a name stands for the test."""
    if isinstance(test, ast.Name):
        values = module.names.values(test.id, test)
        return _modulus(module, values[-1]) if len(values) == 1 and not isinstance(values[0], ast.Name) else None
    for node in ast.walk(test):
        left = node.left if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) else None
        if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod):
            return left.right
    return None


def _zeroed_each_time(module: Module, loop: Loop, test: ast.If) -> bool:
    """Whether gradients are cleared in every pass, so that nothing accumulates."""
    cleared = [c for c in module.calls.get("zero_grad", ()) if module.tree.inside(c, loop)]
    return any(
        not module.tree.inside(c, test) and not isinstance(module.tree.nearest(c, ast.If, ast.For, ast.While), ast.If)
        for c in cleared
        if next(module.tree.loops(c), None) is loop
    )


def _inner_loop(module: Module, loop: Loop, backward: ast.Call) -> Accumulation | None:
    """Return the accumulation of an inner loop over micro-batches with the step behind it."""
    if not isinstance(loop, ast.For) or _steps(module, loop) or not ACCUMULATES.search(_words(loop)):
        return None
    above = module.tree.parents[loop]
    after = [c for c in _steps(module, above) if c.lineno > (loop.end_lineno or loop.lineno)]
    cleared = [c for c in module.calls.get("zero_grad", ()) if module.tree.inside(c, loop)]
    if not after or cleared:
        return None
    return Accumulation(loop, backward, _trips(loop), after[0], None)


def _words(loop: ast.For) -> str:
    return f"{ast.unparse(loop.target)} {ast.unparse(loop.iter)}"


def _trips(loop: ast.For) -> ast.expr:
    """Return what counts the passes of a loop: k of `range(k)`, else what is walked."""
    over = loop.iter
    return over.args[-1] if isinstance(over, ast.Call) and called(over) == "range" and over.args else over


def names_k(node: ast.AST, count: ast.expr) -> bool:
    """Whether an expression mentions k, or anything that is named as k's are."""
    last = (key(count) or "").split(".")[-1]
    for at in ast.walk(node):
        word = at.id if isinstance(at, ast.Name) else at.attr if isinstance(at, ast.Attribute) else ""
        if isinstance(at, ast.Constant) and isinstance(at.value, str):
            word = at.value
        if word and (word == last or ACCUMULATES.search(word)):
            return True
    return isinstance(count, ast.Constant) and any(
        isinstance(at, ast.Constant) and at.value == count.value for at in ast.walk(node)
    )
