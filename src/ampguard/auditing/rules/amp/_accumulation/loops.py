"""Gradient accumulation: which loop gathers gradients over how many micro-batches, and where it steps.

Four shapes are known: a loop that steps only where a counter is a multiple of k (`if (i + 1) % k == 0: step`, also
`if (i + 1) % k != 0: continue` before the step), one that steps where a counter has come to k and starts it anew, and
an inner loop over k micro-batches with the step behind it, in the same function or in the one that calls it; and a
function that is called for every batch, as a framework's `training_step` is, and steps every k-th time.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, target
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules.amp._accumulation.counted_batches import counted, not_yet
from ampguard.auditing.rules.amp._accumulation.pieces import goes_over_pieces, walks_slices
from ampguard.auditing.rules.amp._steps import arms, backward_calls, callers, loss_of

ACCUMULATES = regex(
    r"accum|accu_|grad(ient)?s?_?acc(?!ur)|(^|_)acc_(grad|step|iter|batch|num|freq)|micro_?(batch|step)|micro\b|batch_split",
    re.IGNORECASE,
)
"""Names of a number of micro-batches; `acc` alone is an accuracy."""


@dataclass(frozen=True)
class Accumulation:
    """One loop that gathers gradients.

    Attributes:
        loop: The loop over micro-batches, or the function that is called for each.
        backward: The backward call in it.
        count: The expression for k.
        step: The optimizer's or scaler's step.
        test: The test that the step stands under, None where it stands behind the loop.
    """

    loop: Loop | Function
    backward: ast.Call
    count: ast.expr
    step: ast.Call
    test: ast.If | None


def accumulations(module: Module) -> list[Accumulation]:
    """Return every accumulation of the file."""
    return module.once("accumulations", lambda: list(_accumulations(module)))


def _accumulations(module: Module) -> Iterator[Accumulation]:
    for backward in (*backward_calls(module), *_handed_backward(module)):
        loops = list(module.tree.loops(backward))
        stepping = next((loop for loop in loops if _steps(module, loop)), None)
        found = _every_kth(module, stepping, backward) if stepping is not None else None
        if found is None and loops:
            found = _inner_loop(module, loops[0], backward)
        function = module.tree.function(backward)
        if not loops and function is not None and _counts_batches(function):
            found = _every_kth(module, function, backward)
        if not loops and function is not None and found is None and not _steps(module, function):
            found = _in_callers(module, function, backward)
        if found is not None:
            yield found


def _in_callers(module: Module, function: Function, backward: ast.Call) -> Accumulation | None:
    """Return the accumulation of a loop that calls a function with the backward pass, and steps every k-th time.

    Or steps behind it, where the loop goes over micro-batches.
    """
    if any(module.tree.inside(c, function) for c in module.calls.get("zero_grad", ())):
        return None
    for call in callers(module, function):
        stepping = next((loop for loop in module.tree.loops(call) if _steps(module, loop)), None)
        found = _every_kth(module, stepping, call) if stepping is not None else None
        loop = next(module.tree.loops(call), None) if found is None else None
        found = _inner_loop(module, loop, call) if loop is not None else found
        if found is not None:
            return replace(found, backward=backward)
    return None


def _handed_backward(module: Module) -> list[ast.Call]:
    """Return the calls that hand the loss to a framework whose backward leaves it as it is."""
    given = [c for c in module.calls.get("backward", ()) if c.args]
    fabric = [c for c in given if (key(receiver(c)) or "").endswith("fabric")]
    own = [c for c in given if _runs_it(module, c)]
    return [c for c in module.calls.get("manual_backward", ()) if c.args] + fabric + own + _accelerated(module)


def _runs_it(module: Module, call: ast.Call) -> bool:
    """Whether a call hands the loss to a method of the project that runs its backward pass and divides by nothing."""
    place = target(module, call, (".backward(",))
    if place is None:
        return False
    within = [n for n in walk_scope(place[1]) if isinstance(n, ast.Call | ast.BinOp | ast.AugAssign)]
    divides = any(isinstance(getattr(n, "op", None), ast.Div) or getattr(n, "args", ()) for n in within)
    return any(isinstance(n, ast.Call) and called(n) == "backward" for n in within) and not divides


def _accelerated(module: Module) -> list[ast.Call]:
    """Return the backward passes of an Accelerator that was told of no accumulation: it divides the loss by 1."""
    made = module.calls.get("Accelerator", ())
    if not made or module.mentions((".accumulate(", "GradientAccumulationPlugin")):
        return []
    if any(k.arg in (None, "gradient_accumulation_steps") or "plugin" in str(k.arg) for c in made for k in c.keywords):
        return []
    return [c for c in module.calls.get("backward", ()) if (key(receiver(c)) or "").endswith("accelerator") and c.args]


def loss_given(module: Module, backward: ast.Call) -> ast.expr:
    """Return the loss of a backward call, as its receiver or as its argument."""
    return backward.args[0] if backward.args else loss_of(module, backward)[0]


def _counts_batches(function: Function) -> bool:
    """Whether a function is told which batch it is given."""
    return any(_BATCH_NUMBER.fullmatch(a.arg) for a in function.args.args)


_BATCH_NUMBER = regex(r"(batch|step|iter|iteration|micro_?(batch|step))_?(idx|i|index|num|number|id|nb)?|i|idx", re.I)


def _every_kth(module: Module, loop: Loop | Function, backward: ast.Call) -> Accumulation | None:
    """Return the accumulation of a loop whose steps all stand under a test of every k-th time, backward outside."""
    steps = [s for s in _steps(module, loop) if not _of_an_inner_pass(module, s, loop)]
    steps = [s for s in steps if not arms(module, s, backward)] or steps  # the other arm's are of its own pass
    tests = [
        _test_above(module, step, loop) or _test_before(module, step, loop, backward) or _test_inside(module, step)
        for step in steps
    ]
    if not steps or tests[0] is None:
        return None
    if any(t is None or _with_step(module, backward, step, t[0]) for step, t in zip(steps, tests, strict=True)):
        return None
    test, count = tests[0]
    return (
        None if _zeroed_each_time(module, loop, test, steps[0]) else Accumulation(loop, backward, count, steps[0], test)
    )


def _of_an_inner_pass(module: Module, step: ast.Call, loop: Loop | Function) -> bool:
    """Whether a step stands in an inner loop with a backward pass of its own, as one that repeats a batch does."""
    inner = itertools.takewhile(lambda at: at is not loop, module.tree.loops(step))
    passes = module.calls.get("backward", ())
    return any(module.tree.inside(c, at) for at in inner for c in passes)


def _with_step(module: Module, backward: ast.Call, step: ast.Call, test: ast.If) -> bool:
    """Whether a backward pass stands under the test of a step, and not in the other arm, which only gathers."""
    return module.tree.inside(backward, test) and not arms(module, backward, step)


def _steps(module: Module, around: ast.AST) -> list[ast.Call]:
    return [c for c in _all_steps(module) if module.tree.inside(c, around)]


def _all_steps(module: Module) -> list[ast.Call]:
    """Return the steps of optimizers and scalers, and the calls of functions of the file that do nothing but step."""
    return module.once("accumulation steps", lambda: _find_steps(module))


def _find_steps(module: Module) -> list[ast.Call]:
    plain = [
        c for c in module.calls.get("step", ()) if is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c))
    ]
    plain += [c for c in module.calls_of("optimize", "optimizer_step") if c.args and is_optimizer(module, c.args[0])]
    within = {module.tree.function(c) for c in plain}
    within -= {module.tree.function(c) for c in module.calls.get("backward", ())}
    apart = [f for f in within if f is not None and not any(True for c in plain for _ in _loops_within(module, c, f))]
    return plain + [c for f in apart if _STEPS.search(f.name) for c in callers(module, f)]


def _loops_within(module: Module, node: ast.AST, function: Function) -> Iterator[Loop]:
    return (loop for loop in module.tree.loops(node) if module.tree.inside(loop, function))


_STEPS = regex(r"step|update|optim", re.IGNORECASE)


def _test_above(module: Module, step: ast.Call, loop: Loop | Function) -> tuple[ast.If, ast.expr] | None:
    for at in module.tree.above(step):
        if at is loop:
            return None
        if isinstance(at, ast.If):
            body = any(module.tree.inside(step, item) for item in at.body)
            count = _count_of(module, at.test, loop, at) if body else _skipped(module, at.test)
            if count is not None:
                return at, count
    return None


def _test_inside(module: Module, step: ast.Call) -> tuple[ast.If, ast.expr] | None:
    """Return the test in a function of the file that steps every k-th time of all that it is called."""
    place = target(module, step) if called(step) != "step" else None
    if place is None or place[0] is not module:
        return None
    inner = [
        c for c in module.calls.get("step", ()) if is_optimizer(module, receiver(c)) or is_scaler(module, receiver(c))
    ]
    inner = [c for c in inner if module.tree.function(c) is place[1]]
    tests = [_test_above(module, c, place[1]) for c in inner]
    return tests[0] if tests and all(t is not None for t in tests) else None


def _test_before(
    module: Module, step: ast.Call, loop: Loop | Function, backward: ast.Call
) -> tuple[ast.If, ast.expr] | None:
    """Return the test of an `if (i + 1) % k: continue` between backward and the step, in the loop's own body."""
    for item in loop.body:
        if not isinstance(item, ast.If) or not backward.lineno < item.lineno < step.lineno:
            continue
        if not isinstance(item.body[-1], ast.Continue | ast.Return):
            continue
        count = _skipped(module, item.test) or not_yet(module, item.test, loop)
        if count is not None:
            return item, count
    return None


def _count_of(module: Module, test: ast.expr, loop: Loop | Function, branch: ast.If) -> ast.expr | None:
    """Return k of a test that is true every k-th time: by a remainder, or by a counter that starts anew there."""
    return _modulus(module, test) or counted(module, test, loop, branch) or _asked_of(module, test)


def _asked_of(module: Module, test: ast.expr) -> ast.expr | None:
    """Return what counts the micro-batches in a function of the file that is asked whether to step now."""
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    for call in (p for p in parts if isinstance(p, ast.Call) and _WHEN.search(called(p))):
        place = target(module, call)
        for node in walk_scope(place[1]) if place is not None else ():
            if isinstance(node, ast.Name | ast.Attribute) and ACCUMULATES.search((key(node) or "").rpartition(".")[2]):
                return node
    return None


_WHEN = regex(r"(step|update|sync|accum|optim)", re.IGNORECASE)


def _modulus(module: Module, test: ast.expr) -> ast.expr | None:
    """Return k of a test on a remainder, also where a name stands for the test."""
    if isinstance(test, ast.Name | ast.Attribute):
        values = assigned(module, test)
        simple = len(values) == 1 and not isinstance(values[0], ast.Name | ast.Attribute)
        return _modulus(module, values[0]) if simple else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Name):
        values = assigned(module, test.operand)
        return _skipped(module, values[0]) if len(values) == 1 else None
    for node in walk(test):
        left = node.left if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) else None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            left = node.operand
        if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod):
            return left.right
    return None


def _skipped(module: Module, test: ast.expr) -> ast.expr | None:
    """Return k of a test that is false every k-th time: `(i + 1) % k`, `(i + 1) % k != 0` or `> 0`, `not stepping`.

    Also where more is asked for: `(i + 1) % k != 0 and i + 1 < len(loader)`.
    """
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return next((k for part in test.values if (k := _skipped(module, part)) is not None), None)
    if isinstance(test, ast.Name):
        values = assigned(module, test)
        return _skipped(module, values[0]) if len(values) == 1 and not isinstance(values[0], ast.Name) else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _modulus(module, test.operand)
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotEq | ast.Gt):
        test = test.left
    return test.right if isinstance(test, ast.BinOp) and isinstance(test.op, ast.Mod) else None


def _zeroed_each_time(module: Module, loop: Loop | Function, test: ast.If, step: ast.Call) -> bool:
    """Whether gradients are cleared in every pass, so that nothing accumulates."""
    cleared = [c for c in module.calls.get("zero_grad", ()) if module.tree.inside(c, loop)]
    apart = module.tree.function(test) is not module.tree.function(step)
    if not module.tree.inside(step, test) and not apart:  # what stands behind the test is skipped with the step
        cleared = [c for c in cleared if c.lineno < test.lineno]
    return any(
        not module.tree.inside(c, test) and not isinstance(module.tree.nearest(c, ast.If, ast.For, ast.While), ast.If)
        for c in cleared
        if next(module.tree.loops(c), module.tree.function(c)) is loop
    )


def _inner_loop(module: Module, loop: Loop, backward: ast.Call) -> Accumulation | None:
    """Return the accumulation of an inner loop over micro-batches with the step behind it."""
    if not isinstance(loop, ast.For | ast.While) or _steps(module, loop):
        return None
    if not ACCUMULATES.search(_words(loop)) and not goes_over_pieces(module, loop):
        return None
    above = module.tree.parents[loop]
    while isinstance(above, ast.With | ast.Try):
        above = module.tree.parents[above]
    after = [c for c in _steps(module, above) if c.lineno > (loop.end_lineno or loop.lineno)]
    after = after or _steps_of_callers(module, module.tree.function(loop))
    cleared = [c for c in module.calls.get("zero_grad", ()) if module.tree.inside(c, loop)]
    if not after or cleared:
        return None
    return Accumulation(loop, backward, _trips(loop), after[0], None)


def _steps_of_callers(module: Module, function: Function | None) -> list[ast.Call]:
    """Return the steps that stand behind the calls of a function, in the functions of the file that call it."""
    found = []
    for call in callers(module, function) if function is not None else ():
        around = module.tree.function(call)
        found += [c for c in _steps(module, around) if c.lineno > call.lineno] if around is not None else []
    return found


def _words(loop: ast.For | ast.While) -> str:
    if isinstance(loop, ast.For):
        return f"{ast.unparse(loop.target)} {ast.unparse(loop.iter)}"
    return " ".join(ast.unparse(test) for test in _ends(loop))


def _ends(loop: ast.While) -> list[ast.Compare]:
    """Return the comparisons that end a loop: its own test, and those of `if ...: break` in its body."""
    leaving = [s.test for s in loop.body if isinstance(s, ast.If) and isinstance(s.body[-1], ast.Break)]
    return [t for t in (loop.test, *leaving) if isinstance(t, ast.Compare)]


def _trips(loop: ast.For | ast.While) -> ast.expr:
    """Return what counts the passes of a loop: k of `range(k)` or of `if count >= k: break`, else what is walked."""
    if isinstance(loop, ast.While):
        tests = [t for t in _ends(loop) if ACCUMULATES.search(ast.unparse(t))]
        return tests[0].comparators[0]
    over = loop.iter
    if walks_slices(loop):
        return over  # the last argument says how large the pieces are, and stands in each of them
    trips = over.args[-1] if isinstance(over, ast.Call) and called(over) == "range" and over.args else over
    but_one = isinstance(trips, ast.BinOp) and isinstance(trips.op, ast.Sub) and isinstance(trips.right, ast.Constant)
    return trips.left if but_one else trips  # type: ignore[attr-defined]


def names_k(node: ast.AST, count: ast.expr) -> bool:
    """Whether an expression mentions k, or anything that is named as k's are."""
    last = (key(count) or "").split(".")[-1]
    for at in walk(node):
        word = at.id if isinstance(at, ast.Name) else at.attr if isinstance(at, ast.Attribute) else ""
        if isinstance(at, ast.Constant) and isinstance(at.value, str):
            word = at.value
        if word and (word == last or ACCUMULATES.search(word)):
            return True
    return isinstance(count, ast.Constant) and any(
        isinstance(at, ast.Constant) and at.value == count.value for at in walk(node)
    )
