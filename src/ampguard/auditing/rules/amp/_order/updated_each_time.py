"""Updates of a scaler at every micro-batch, where its step comes only every k-th time.

`update()` looks for what `step` or `unscale_` found since the last one, and fails where there was neither.

Source: torch/amp/grad_scaler.py, `update`: "No inf checks were recorded prior to update."
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.amp._order.micro_steps import runs_each_time
from ampguard.auditing.rules.amp._order.seldom import every_kth


def updated_each_time(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the update, the step) of scalers that are updated more often than they step."""
    for update in module.calls.get("update", ()):
        scaler = key(receiver(update))
        if scaler is None or not is_scaler(module, receiver(update)):
            continue
        loop = next(module.tree.loops(update), None)
        uses = [c for c in module.calls_of("step", "unscale_") if key(receiver(c)) == scaler and c.args]
        if "." not in scaler:
            uses = [c for c in uses if module.tree.function(c) is module.tree.function(update)]
        mine = [c for c in uses if module.tree.function(c) is module.tree.function(update)]
        if loop is None or not mine or len(mine) < len(uses) or not runs_each_time(module, update, loop):
            continue
        tests = [every_kth(module, use, loop) for use in mine]
        if all(t is not None and _leaves_out(module, t, use, update) for t, use in zip(tests, mine, strict=True)):
            yield update, mine[0]


def _leaves_out(module: Module, test: ast.If, use: ast.Call, update: ast.Call) -> bool:
    """Whether a test leaves out a use of the scaler in the loop, and not its update."""
    return module.tree.inside(use, test) or update.lineno < test.lineno
