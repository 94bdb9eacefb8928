"""Schedules that move although the loop itself left the optimizer's step out, as where the gradients held NaN."""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import receiver
from ampguard.auditing.rules.amp._steps import tests_above

_BROKEN = regex(r"isnan|isinf|isfinite|is_finite|is_nan|is_inf|non_?finite|has_nan|nan_grad|found_inf|inf_or_nan")
WORDS = ("isnan", "isinf", "finite", "nan", "found_inf")


def schedules_of_left_out_steps(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the move, the step) of one loop where only the step stands under a test for what is not finite."""
    if not module.mentions(("sched",)) or not module.mentions(WORDS):
        return
    steps = [c for c in module.calls_of("step") if _is_step(module, c) and _left_out(module, c)]
    for move in module.calls_of("step") if steps else ():
        if move.args or move.keywords or not is_scheduler(module, receiver(move)):
            continue
        for step in steps:
            if _beside(module, move, step):
                yield move, step
                break


def _is_step(module: Module, call: ast.Call) -> bool:
    owner = receiver(call)
    return is_optimizer(module, owner) or (is_scaler(module, owner) and bool(call.args))


def _left_out(module: Module, step: ast.Call) -> list[str]:
    """Return the tests for what is not finite that may leave a step out."""
    return [text for test, _ in tests_above(module, step) if _BROKEN.search(text := ast.unparse(test))]


def _beside(module: Module, move: ast.Call, step: ast.Call) -> bool:
    """Whether the two stand in one loop of one function, and the move under no test but such as the step has too."""
    loop = next(module.tree.loops(move), None)
    if loop is None or next(module.tree.loops(step), None) is not loop:
        return False
    if module.tree.function(move) is not module.tree.function(step) or move.lineno < step.lineno:
        return False
    own = {ast.unparse(test) for test, _ in tests_above(module, move)}
    shared = own & {ast.unparse(test) for test, _ in tests_above(module, step)}
    return not any(_BROKEN.search(text) for text in own) and all(
        text in shared or "sched" in text.lower() for text in own
    )
