"""Calls of a tracker that run also where it was never started, because its start alone stands under a test.

`if self.enabled: wandb.init(...)`, and below, under another test or none, `wandb.log(...)`: with the tracker switched
off, or on another rank, the second raises. So does what `accelerator.get_tracker(...)` gives where `init_trackers`
did not run. A test of the rank makes up for no test of the option, and the other way round.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.guards import tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key, receiver
from ampguard.auditing.rules.trackers._isolation import isolated

_NEEDS_RUN = ("log", "watch", "save", "log_artifact", "define_metric", "alert")
_MAY_BE_STARTED = regex(r"\bnot\b|\bis None|\.run\b|resum|init|start|__name__|sweep", re.IGNORECASE)
"""Tests of a start that does not run because a run is there already."""

_OF_RANKS = regex(r"rank|main|master|zero|chief|\bdist_|distributed", re.IGNORECASE)
_OF_TRACKING = regex(r"wandb|track|logg|\blog\b|_log\b|log_|debug|report|use_wb|\brun\b|enabled|offline", re.IGNORECASE)
"""Tests that may come to the same as the one that the start stands under, in other words."""

_NAME = regex(r"[A-Za-z_]\w+")


def calls_before_the_start(module: Module) -> Iterator[tuple[ast.Call, ast.Call]]:
    """Walk (the first such call of a function, the start of the run)."""
    if not module.mentions(("wandb.init(", "init_trackers(")) or module.role == "test":
        return
    plain = [c for c in module.calls_of("init") if _is_wandb(c)]
    yield from _behind(module, plain, [c for c in module.calls_of(*_NEEDS_RUN) if _is_wandb(c)])
    yield from _behind(module, [*module.calls_of("init_trackers")], [*module.calls_of("get_tracker")])


def _behind(module: Module, starts: list[ast.Call], uses: list[ast.Call]) -> Iterator[tuple[ast.Call, ast.Call]]:
    for start in starts:
        function = module.tree.function(start)
        branch = _branch(module, start)
        alone = sum(module.tree.function(c) is function for c in starts) == 1
        if branch is None or function is None or not alone or isolated(module, start, function):
            continue
        calls = (c for c in uses if module.tree.function(c) is function)
        behind = (
            c for c in calls if c.lineno > (branch.end_lineno or branch.lineno) and _runs_without(module, c, branch)
        )
        first = min(behind, key=lambda c: c.lineno, default=None)
        if first is not None and not isolated(module, first, function):
            yield first, start


def _is_wandb(call: ast.Call) -> bool:
    return (key(receiver(call)) or "").rpartition(".")[2] == "wandb"


def _branch(module: Module, start: ast.Call) -> ast.If | None:
    """Return the one `if` without an `else` that a start stands under, where it asks for no run that is there."""
    around = [at for at in module.tree.above(start) if isinstance(at, ast.If)]
    branch = around[-1] if around else None
    if branch is None or any(at.orelse or _MAY_BE_STARTED.search(ast.unparse(at.test)) for at in around):
        return None
    if any(True for _ in module.tree.loops(start)):
        return None
    return branch if module.tree.function(branch) is module.tree.function(start) else None


def _runs_without(module: Module, call: ast.Call, branch: ast.If) -> bool:
    """Whether nothing before a call asks for what the start was asked for, or something of its kind."""
    start = ast.unparse(branch.test)
    asked = set(_NAME.findall(start)) - {"self", "args", "cfg", "config"}
    kinds = [kind for kind in (_OF_RANKS, _OF_TRACKING) if kind.search(start)] or [_OF_RANKS, _OF_TRACKING]
    for test, _ in tests_before(module, call):
        text = ast.unparse(test)
        if any(kind.search(text) for kind in kinds) or asked & set(_NAME.findall(text)):
            return False
    return True
