"""Faults of learning-rate schedules: moved whatever became of the step, before it, or at every micro-batch."""

import ast
from collections.abc import Iterator

from plants.accumulation import every_kth, under
from plants.edits import BLOCKS, FUNCTIONS, Page, Plant, alone, edited, like_scaler, receiver

KIND = "scheduler-on-skipped-step"
ASKED = ("get_scale", "scale_before", "old_scale", "prev_scale", "skip_lr", "skip_sched", "was_skipped", "skipped")


def unguarded(page: Page) -> Iterator[Plant]:
    """Move the schedule whatever became of the step, where a test asked for the scale."""
    for test in (n for n in ast.walk(page.tree) if isinstance(n, ast.If)):
        asked = ast.unparse(test.test).lower()
        moves = [c.lineno for c in _moves(page) if under(page, c, test)]
        if moves and not test.orelse and any(word in asked for word in ASKED):
            text = edited(page, [(test.test, "True")])
            if text:
                yield Plant(KIND, text, (*moves, test.lineno))
                return


def moved_with_each_step(page: Page) -> Iterator[Plant]:
    """Move a schedule of epochs right behind the scaler's step instead."""
    for move in (c for c in _moves(page) if alone(page, c)):
        for step in (c for c in page.calls("step") if like_scaler(c) and alone(page, c)):
            if not _reaches(page, move, step) or page.loop(step) in (None, page.loop(move)):
                continue
            source = page.source(move)
            text = edited(page, [(page.statement(move), "pass"), (step, f"{page.source(step)}; {source}")])
            if text:
                yield Plant(KIND, text, (step.lineno,))
                return


def moved_before_training(page: Page) -> Iterator[Plant]:
    """Move the schedule of an epoch at the head of its loop, before the training."""
    for move in (c for c in _moves(page) if alone(page, c)):
        loop = page.loop(move)
        if not isinstance(loop, ast.For) or page.statement(move) not in loop.body:
            continue
        head = next((s for s in loop.body if isinstance(s, ast.Expr | ast.Assign | ast.AugAssign)), None)
        trains = [s for s in loop.body if _trains(s) and s.lineno < move.lineno]
        if head is None or not trains or head.lineno > trains[0].lineno:
            continue
        edits = [(page.statement(move), "pass"), (head, f"{page.source(move)}; {page.source(head)}")]
        text = edited(page, edits)
        if text:
            yield Plant(KIND, text, (head.lineno,))
            return


def moved_each_micro_batch(page: Page) -> Iterator[Plant]:
    """Move the schedule at every micro-batch, where it moved with the step of every k-th."""
    for test in every_kth(page):
        moves = [c for c in _moves(page) if under(page, c, test) and alone(page, c)]
        before = _before(page, test)
        if len(moves) != 1 or before is None:
            continue
        edits = [(page.statement(moves[0]), "pass"), (before, f"{page.source(before)}; {page.source(moves[0])}")]
        text = edited(page, edits)
        if text:
            yield Plant(KIND, text, (before.lineno, test.lineno))
            return


def _moves(page: Page) -> Iterator[ast.Call]:
    """Walk the calls that move a schedule by one step, as its name says."""
    for call in page.calls("step"):
        if "sched" in receiver(call).lower() and not call.args and not call.keywords:
            yield call


def _reaches(page: Page, move: ast.Call, step: ast.Call) -> bool:
    """Whether what a schedule is called in one place is called so in another."""
    if page.function(move) is page.function(step):
        return True
    classes = [next((a for a in page.above(n) if isinstance(a, ast.ClassDef)), None) for n in (move, step)]
    return receiver(move).startswith("self.") and classes[0] is classes[1] is not None


def _trains(statement: ast.stmt) -> bool:
    calls = (n for n in ast.walk(statement) if isinstance(n, ast.Call))
    return any("train" in ast.unparse(c.func).lower() or ast.unparse(c.func).endswith("backward") for c in calls)


def _before(page: Page, test: ast.If) -> ast.stmt | None:
    """Return the last plain statement before a test in its block, that another can be written behind."""
    above = page.parents[test]
    for name in BLOCKS:
        block = getattr(above, name, None)
        if isinstance(block, list) and test in block and not isinstance(above, FUNCTIONS):
            before = [s for s in block[: block.index(test)] if isinstance(s, ast.Expr | ast.Assign | ast.AugAssign)]
            return next((s for s in reversed(before) if not isinstance(getattr(s, "value", None), ast.Constant)), None)
    return None


PLANTERS = (unguarded, moved_with_each_step, moved_before_training, moved_each_micro_batch)
