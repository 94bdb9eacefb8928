"""Backward passes whose gradients are cleared before anything is stepped, to make room for the next backward pass.

`g_loss.backward()`, then (in a branch, too) `optimizer.zero_grad()`, `d_loss.backward()`, and one `step()`: the first
pass was for nothing. Only where the function has that one optimizer, and nothing between looks at a gradient.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.flow.gradients import skeletons
from ampguard.auditing.flow.paths import events
from ampguard.auditing.flow.skeleton import Event
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._steps import arms

_STEPS = ("step", "scaler step", "closure step")
_BACKWARD = ("backward", "managed backward")


def dropped_gradients(module: Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Walk (the clear, the backward pass whose gradients it drops), inside one pass of one loop."""
    for _, ops in skeletons(module):
        found = sorted((e for e in events(ops) if e.module is module and not e.stack), key=_line)
        owners = {e.data.get("optimizer") for e in found if e.kind in ("step", "scaler step", "zero")}
        owners |= {e.data.get("scaler") for e in found if e.kind == "closure step"}
        if len(owners) != 1:
            continue
        for first, clear, second in zip(found, found[1:], found[2:], strict=False):
            kinds = first.kind in _BACKWARD and clear.kind == "zero" and second.kind in _BACKWARD
            if kinds and clear.data.get("is_optimizer") and _drops(module, first, clear, second, found):
                yield clear.node, first.node


def _drops(module: Module, first: Event, clear: Event, second: Event, found: list[Event]) -> bool:
    """Whether the three run one after the other, with a step behind them, and nothing reads what was computed."""
    loops = [next(module.tree.loops(e.node), None) for e in (first, clear, second)]
    if loops[0] is None or loops[0] is not loops[1] or loops[1] is not loops[2]:
        return False
    if any(arms(module, a.node, b.node) for a, b in ((first, clear), (first, second), (clear, second))):
        return False
    between = "\n".join(module.lines[_line(first) : _line(clear) - 1])
    jumps = any(word in between for word in ("grad", "continue", "break", "return", "def ", "sync", "reduce"))
    behind = any(e.kind in _STEPS and _line(e) > _line(second) for e in found)
    return behind and not jumps and _in_block_of(module, second, clear)


def _in_block_of(module: Module, second: Event, clear: Event) -> bool:
    """Whether the second pass runs wherever the clear does."""
    above = module.tree.parents[module.tree.statement(clear.node)]
    return module.tree.inside(second.node, above)


def _line(event: Event) -> int:
    return getattr(event.node, "lineno", 0)
