"""Where gradients are cleared too often or too seldom for the step that applies them.

An accumulation that clears at every micro-step, or just before the backward pass that is stepped, applies the last
micro-batch alone; a loop that clears only before it begins applies the sum of its whole past.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_optimizer
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver, walk
from ampguard.auditing.rules.amp._order.seldom import every_kth, training_loop, what_is_walked
from ampguard.auditing.rules.amp._order.settled_arms import in_a_settled_arm
from ampguard.auditing.rules.amp._steps import arms, enclosing

_BACKWARD = ("backward", "managed backward")
_STEPS = ("step", "scaler step")
_MAY_CLEAR = regex(r"zero|reset|clear", re.IGNORECASE)


def cleared_micro_steps(module: Module) -> Iterator[tuple[Event, Event]]:
    """Yield (the clear, the step) of each accumulation that clears too often, also in a function that it calls."""
    for _, ops in skeletons(module):
        found = [event for event in events(ops) if event.module is module]
        own = [event for event in found if not event.stack]
        clears = [e for e in found if e.kind == "zero" and not _under_test(module, e)]
        passes = [_from_root(e) for e in found if e.kind in _BACKWARD and not _under_test(module, e)]
        for step in (e for e in own if passes and clears and e.kind in _STEPS):
            loop = training_loop(module, step.node, passes)
            test = every_kth(module, step.node, loop)
            if test is None:
                continue
            clear = next((e for e in clears if _each_time(module, e, step, test, loop)), None)
            clear = clear or next((e for e in own if e.kind == "zero" and _just_before(module, e, step, own)), None)
            if clear is not None and any(_gathers(module, node, step.node, test, loop) for node in passes):
                yield clear, step
                break


def cleared_in_inner_loops(module: Module) -> Iterator[tuple[Event, Event]]:
    """Yield (the clear, the step) of loops that clear before each backward pass, where the step stands behind them.

    Helpers are seen through: the backward pass may stand in a function that the loop calls.
    """
    for root, ops in skeletons(module):
        found = list(events(ops))
        at = {event: _from_root(event) for event in found}
        clears = [e for e in found if e.kind == "zero" and e.module is module and e.data.get("is_optimizer")]
        for clear in clears:
            loop = next(module.tree.loops(at[clear]), None)
            if loop is None or not runs_each_time(module, at[clear], loop) or _under_test(module, clear):
                continue
            inside = [e for e in found if module.tree.inside(at[e], loop)]
            if any(e.kind in (*_STEPS, "closure step") for e in inside) or ".step(" in ast.unparse(loop):
                continue
            if not any(e.kind in _BACKWARD and found.index(e) > found.index(clear) for e in inside):
                continue
            behind = [e for e in found if _line(at[e]) > (loop.end_lineno or 0) and module.tree.inside(at[e], root)]
            behind = sorted(behind, key=lambda e: _line(at[e]))
            step = next((e for e in behind if e.kind in (*_STEPS, *_BACKWARD, "zero", "clear")), None)
            same = step is not None and step.data.get("optimizer") == clear.data.get("optimizer")
            if step is not None and step.kind in _STEPS and same:
                yield clear, step
                break


def cleared_once(module: Module) -> Iterator[tuple[Loop, ast.AST, ast.AST]]:
    """Yield (loop, the step, the clear) where a loop steps and its function's only clears stand before it.

    The backward pass and the step may stand in functions that the loop calls.
    """
    for root, ops in skeletons(module):
        found = list(events(ops))
        clears = [e for e in found if e.kind in ("zero", "clear")]
        steps = [e for e in found if e.kind in _STEPS]
        if (
            not clears
            or not steps
            or any(e.stack for e in clears)
            or sum(enclosing(module, c) is root for c in module.calls.get("zero_grad", ())) > len(clears)
        ):
            continue
        for step in steps:
            loop = next(module.tree.loops(_from_root(step)), None)
            mine = [c for c in clears if _may_clear(c, step)]
            if loop is None or not mine or any(_line(c.node) >= loop.lineno for c in mine):
                continue
            backward = any(e.kind in _BACKWARD and module.tree.inside(_from_root(e), loop) for e in found)
            if backward and not _MAY_CLEAR.search(_called_in(loop)) and not _left_behind(module, loop):
                yield loop, step.node if step.module is module else _from_root(step), mine[0].node
                break


def cleared_in_the_other_arm(module: Module) -> Iterator[tuple[Event, Event]]:
    """Yield (the step, the clear) of steps in one arm of an `if` whose optimizer is cleared in the other arm alone.

    As where only the branch without mixed precision clears: the other adds up the gradients of all past steps.
    """
    for _, ops in skeletons(module):
        found = list(events(ops))
        own = list({e.node: e for e in found if e.module is module and not e.stack}.values())
        through = [e for e in found if e.stack and e.kind in ("zero", "clear")]
        told: set[ast.AST] = set()
        for step in (e for e in own if e.kind in _STEPS):
            loop = next(module.tree.loops(step.node), None)
            clears = [e for e in own if e.kind in ("zero", "clear") and _may_clear(e, step)]
            if loop is None or loop in told or not clears or any(_may_clear(e, step) for e in through):
                continue
            backward = [e for e in own if e.kind in _BACKWARD and module.tree.inside(e.node, loop)]
            with_step = [e for e in backward if not arms(module, e.node, step.node)]
            if with_step and all(arms(module, e.node, step.node) for e in clears):
                told.add(loop)
                yield step, clears[0]


def cleared_while_accumulating(module: Module) -> Iterator[ast.Call]:
    """Walk the clears of a model in `with accelerator.accumulate(...)`: unlike its optimizer's, they always run."""
    for call in module.calls_of("zero_grad"):
        if is_optimizer(module, receiver(call)):
            continue
        blocks = (at for at in module.tree.above(call) if isinstance(at, ast.With))
        entered = (i.context_expr for block in blocks for i in block.items)
        if any(isinstance(e, ast.Call) and called(e) == "accumulate" for e in entered):
            yield call


def _may_clear(clear: Event, step: Event) -> bool:
    """Whether a clear may be of what a step applies: of the same optimizer, or of something that is no optimizer."""
    return not clear.data.get("is_optimizer") or clear.data.get("optimizer") == step.data.get("optimizer")


def never_cleared_optimizers(module: Module) -> Iterator[tuple[ast.AST, str, bool]]:
    """Walk (the step, what is cleared, whether a loop shows it) of optimizers that a file never clears, beside others.

    Only where every clear of the file names an optimizer, and none is one of a loop over several. A step in no loop, or
    of an attribute, is one whose function is called again; what else clears it would stand in another file.
    """
    if _CLEARED_BY_HAND.search(module.text):
        return
    found = {e.node: e for _, ops in skeletons(module) for e in events(ops) if e.module is module and not e.stack}
    clears = [e for e in found.values() if e.kind in ("zero", "clear")]
    names = {e.data.get("optimizer", "") for e in clears}
    loops = {key(n) for loop in module.tree.all(ast.For) for n in walk(loop.target)} - {None}
    if not clears or len(clears) < len(module.calls.get("zero_grad", ())):
        return
    if any(not e.data.get("is_optimizer") for e in clears) or names & loops:
        return
    for event in found.values():
        name = event.data.get("optimizer", "")
        plain = name.removeprefix("self.")
        if event.kind not in _STEPS or name in names or name in loops or not plain.isidentifier():
            continue
        around = module.tree.function(event.node)
        beside = [e for e in clears if module.tree.function(e.node) is around]
        if not beside or not _passes_beside(module, event.node):
            continue
        looped = name == plain and next(module.tree.loops(event.node), None) is not None
        looped = looped and not _READ.search(module.text) and not any(n.startswith("self.") for n in names)
        if looped or not module.project.says(re.compile(rf"\b{re.escape(plain)}\.zero_grad"), f"{plain}.zero_grad"):
            yield event.node, ", ".join(sorted(names)), looped


def _passes_beside(module: Module, step: ast.AST) -> bool:
    """Whether a backward pass runs in the function of a step."""
    around = module.tree.function(step)
    return any(module.tree.function(c) is around for c in module.calls.get("backward", ()))


_CLEARED_BY_HAND = regex(
    r"(?<!autograd)\.grad(\.data)?(\s*=[^=]|\.zero_|\.detach_)|del [^\n]*\.grad\b"
    r"|zero_grad\w*\((?!\)|set_to_none)|zero_\("
)
_READ = regex(r"(?<!autograd)\.grad\b")


def _from_root(event: Event) -> ast.AST:
    """Return where an event shows in the function that was walked: itself, or the call there that leads to it."""
    return event.stack[0][1] if event.stack else event.node


def _called_in(loop: Loop) -> str:
    return " ".join(ast.unparse(n.func) for n in walk(loop) if isinstance(n, ast.Call))


def _left_behind(module: Module, loop: Loop) -> bool:
    """Whether the loop of a step goes over optimizers or parts of one step, not over steps."""
    over = ast.unparse(loop.iter) if isinstance(loop, ast.For | ast.AsyncFor) else ""
    return bool(re.search(r"optim|param|group|micro|accum|module", over, re.IGNORECASE)) or module.role == "test"


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def where_line(event: Event) -> int:
    """Return the line of an event."""
    return getattr(event.node, "lineno", 1)


def _just_before(module: Module, clear: Event, step: Event, own: list[Event]) -> bool:
    """Whether a clear stands under the very test of the step, before the backward pass that stands under none.

    `if i % k == 0: zero_grad()`, backward, `if i % k == 0: step()`: what the passes between gathered is thrown away.
    """
    loop = next(module.tree.loops(step.node), None)
    tests = [every_kth(module, e.node, loop) for e in (clear, step)]
    if tests[0] is None or tests[1] is None or tests[0] is tests[1] or clear.data.get("is_optimizer") is False:
        return False
    if ast.dump(tests[0].test) != ast.dump(tests[1].test) or module.tree.inside(step.node, tests[0]):
        return False
    if clear.data.get("optimizer") != step.data.get("optimizer"):
        return False
    if any(e.kind in _STEPS and module.tree.inside(e.node, tests[0]) for e in own):
        return False  # it clears behind a step of its own: the arm of another precision
    passes = [e.node for e in own if e.kind in _BACKWARD]
    lines = [_line(node) for node in passes if _gathers(module, node, step.node, tests[1], loop)]
    return any(_line(clear.node) < line < _line(step.node) for line in lines)


def _gathers(module: Module, node: ast.AST, step: ast.AST, test: ast.If, loop: Loop | None) -> bool:
    """Whether a backward pass runs in the loop (or function) of the step, outside the test that the step stands under.

    It may stand under a test of its own, as where a scaler is there or not.
    """
    if module.tree.function(node) is not module.tree.function(step) or next(module.tree.loops(node), None) is not loop:
        return False
    return not module.tree.inside(node, test) and (module.tree.inside(step, test) or _line(node) < _line(test))


def _under_test(module: Module, event: Event) -> bool:
    """Whether an event in a helper stands under a test or in a loop of its own there."""
    if not event.stack:
        return False
    function = module.tree.function(event.node)
    above = (at for at in module.tree.above(event.node) if function is not None and module.tree.inside(at, function))
    return any(isinstance(at, ast.If | ast.For | ast.While | ast.Try) for at in above)


def runs_each_time(module: Module, node: ast.AST, loop: Loop) -> bool:
    """Whether a node stands in the body of a loop under no test."""
    for above in module.tree.above(node):
        if above is loop:
            return True
        if isinstance(above, ast.If | ast.IfExp | ast.Try | ast.ExceptHandler | ast.While | ast.For):
            return False
    return False


def _each_time(module: Module, clear: Event, step: Event, test: ast.If, loop: Loop | None) -> bool:
    """Whether a clear of the stepped optimizer (or of a model) stands under no test, in the loop of the step."""
    names = [what_is_walked(module, _optimizer(e)) for e in (clear, step)]
    walked = any(name.startswith("each of") for name in names)
    same = names[0] == names[1] if walked else clear.data.get("optimizer") == step.data.get("optimizer")
    if clear.data.get("is_optimizer") and not same:
        return False
    at = _from_root(clear)
    if not module.tree.inside(step.node, test) and _line(at) > _line(test):
        return False  # it is left out with the step
    return not module.tree.inside(at, test) and _beside(module, at, step.node, loop)


def _optimizer(event: Event) -> ast.expr | None:
    call = event.node
    if event.kind == "zero" and isinstance(call, ast.Call):
        return receiver(call)
    if event.kind == "step" and isinstance(call, ast.Call):
        return receiver(call)
    return call.args[0] if isinstance(call, ast.Call) and call.args else None


def _beside(module: Module, node: ast.AST, step: ast.AST, loop: Loop | None) -> bool:
    """Whether a node runs at every walk through the loop of the step, or at every call of its function."""
    if module.tree.function(node) is not module.tree.function(step):
        return False
    if loop is not None and not module.tree.inside(node, loop):
        return False
    for above in module.tree.above(node):
        if above is loop or isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            return True
        if isinstance(above, ast.If) and loop is not None and in_a_settled_arm(module, node, step, above, loop):
            continue
        over = isinstance(above, ast.For) and bool(re.search(r"optim|opts?\b|model|net", ast.unparse(above.iter), re.I))
        if isinstance(above, ast.If | ast.Try | ast.ExceptHandler | ast.While | ast.For) and not over:
            return False
    return True
