"""Faults of gradient accumulation: when gradients are cleared, and what the end of a loader is worth."""

import ast
from collections.abc import Iterator

from plants.edits import FUNCTIONS, Page, Plant, alone, edited, like_scaler, receiver

WORDS = ("accum", "iter_size", "update_freq", "grad_acc", "micro")


def cleared_each_time(page: Page) -> Iterator[Plant]:
    """Clear before every backward pass, where gradients are cleared with the step of every k-th time."""
    for test in every_kth(page):
        loop, function = page.loop(test), page.function(test)
        clears = [c for c in page.calls("zero_grad") if under(page, c, test) and alone(page, c) and not c.args]
        passes = [page.statement(c) for c in page.calls("backward") if page.function(c) is function]
        passes = [s for s in passes if isinstance(s, ast.Expr) and page.loop(s) is loop and not under(page, s, test)]
        if not clears or not passes or len({ast.unparse(c) for c in clears}) > 1:
            continue
        head = _first_plain(loop or function, passes[0])
        if head is None:
            continue
        edits = [(page.statement(c), "pass") for c in clears]
        text = edited(page, [*edits, (head, f"{page.source(clears[0])}; {page.source(head)}")])
        if text:
            lines = (head.lineno, *(s.lineno for s in passes), test.lineno, *(c.lineno for c in clears))
            yield Plant("zero-grad-between-backward-and-step", text, lines)
            return


def _first_plain(around: ast.AST, before: ast.stmt) -> ast.stmt | None:
    """Return the first statement of a loop or a function that something can be written in front of on one line."""
    plain = (s for s in getattr(around, "body", ()) if isinstance(s, ast.Assign | ast.AugAssign) or _is_call(s))
    return next((s for s in plain if s.lineno <= before.lineno), None)


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


def last_group_left(page: Page) -> Iterator[Plant]:
    """Step at multiples of k only, where the last batch was asked for too."""
    for test in every_kth(page):
        asked = test.test
        if not isinstance(asked, ast.BoolOp) or not isinstance(asked.op, ast.Or):
            continue
        counting = [p for p in asked.values if _counts(p)]
        if len(counting) != 1 or not isinstance(page.loop(test), ast.For) or "len(" not in ast.unparse(asked):
            continue
        text = edited(page, [(asked, f"({page.source(counting[0])})")])
        if text:
            yield Plant("last-accumulation-group-misscaled", text, (test.lineno,))
            return


def one_of_two_cleared(page: Page) -> Iterator[Plant]:
    """Clear one of several optimizers of a function nowhere any more."""
    for function in [n for n in ast.walk(page.tree) if isinstance(n, FUNCTIONS)]:
        clears = [c for c in page.calls("zero_grad") if page.function(c) is function and "opt" in receiver(c).lower()]
        names = sorted({receiver(c) for c in clears})
        steps = {name: _steps_of(page, function, name) for name in names}
        backward = [c.lineno for c in page.calls("backward") if page.function(c) is function]
        if len(names) < 2 or not all(steps.values()) or not backward or not all(alone(page, c) for c in clears):
            continue
        left = names[0]
        gone = [c for c in page.calls("zero_grad") if receiver(c) == left and alone(page, c)]
        text = edited(page, [(page.statement(c), "pass") for c in gone])
        if text and f"{left}.zero_grad" not in text:
            yield Plant("missing-zero-grad", text, (*steps[left], *backward))
            return


def _steps_of(page: Page, function: ast.AST, name: str) -> list[int]:
    steps = (c for c in page.calls("step") if page.function(c) is function)
    return [c.lineno for c in steps if receiver(c) == name or (like_scaler(c) and name in map(ast.unparse, c.args))]


def every_kth(page: Page) -> Iterator[ast.If]:
    """Walk the tests of a remainder of k, named so, that an optimizer's step stands under."""
    for test in (n for n in ast.walk(page.tree) if isinstance(n, ast.If)):
        steps = (c for c in page.calls("step") if "optim" in receiver(c) or like_scaler(c))
        if any(_counts(n) for n in ast.walk(test.test)) and any(under(page, c, test) for c in steps):
            yield test


def _counts(node: ast.AST) -> bool:
    remainder = any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in ast.walk(node))
    return isinstance(node, ast.Compare) and remainder and any(word in ast.unparse(node).lower() for word in WORDS)


def under(page: Page, node: ast.AST, test: ast.If) -> bool:
    return any(at in test.body for at in (node, *page.above(node)))


PLANTERS = (cleared_each_time, last_group_left, one_of_two_cleared)
