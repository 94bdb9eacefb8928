"""Clips between a scaled backward pass and the scaler's step in one block, read line by line.

The walk over paths leaves out what has too many states; where the three stand in one list of statements and nothing
between them unscales anything, no path is needed.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.flow.gradient_events import clip_calls
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import called, receiver

_UNSCALES = re.compile(r"unscale|get_scale|inv_scale|loss_scale|\.grad\b")
_BLOCKS = ("body", "orelse", "finalbody")


def clips_in_line(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk the clips of gradients that a backward pass of the same block left scaled, with that backward pass."""
    clips = clip_calls(module)
    backwards = [c for c in module.calls_of("backward") if _is_scaled(module, c)] if clips else []
    for backward in backwards:
        after = _after(module, backward)
        step = next((i for i, s in enumerate(after) if _steps(module, s)), None)
        if step is None or _UNSCALES.search(_text(module, after[: step + 1])):
            continue
        for clip in clips:
            if any(_runs(module, clip, statement) for statement in after[:step]):
                yield clip, backward


def _is_scaled(module: Module, backward: ast.Call) -> bool:
    loss = receiver(backward)
    return isinstance(loss, ast.Call) and called(loss) == "scale" and is_scaler(module, receiver(loss))


def _after(module: Module, node: ast.AST) -> list[ast.stmt]:
    statement = module.tree.statement(node)
    above = module.tree.parents[statement]
    for block in (getattr(above, name, None) for name in _BLOCKS):
        if isinstance(block, list) and statement in block:
            return block[block.index(statement) + 1 :]
    return []


def _steps(module: Module, statement: ast.stmt) -> bool:
    calls = (c for c in module.calls_of("step") if module.tree.inside(c, statement))
    return any(is_scaler(module, receiver(c)) for c in calls)


def _runs(module: Module, clip: ast.Call, statement: ast.stmt) -> bool:
    """Whether a statement of the block is the clip, at most under a test with no other arm."""
    return module.tree.inside(clip, statement) and not (isinstance(statement, ast.If) and statement.orelse)


def _text(module: Module, statements: list[ast.stmt]) -> str:
    return "\n".join(module.lines[statements[0].lineno - 1 : statements[-1].end_lineno]) if statements else ""
