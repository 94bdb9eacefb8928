"""Schedules that are made, and perhaps saved, and never move: the learning rate stays at its first value."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, key, walk, walk_scope
from ampguard.auditing.rules.amp._schedules.known import is_schedule_made, optimizer_steps
from ampguard.auditing.rules.amp._schedules.moved_before_training import trainings

_ASKS = frozenset(
    {"state_dict", "load_state_dict", "get_last_lr", "get_lr", "last_epoch", "base_lrs", "_last_lr", "T_max"}
)
"""What is asked of a schedule without moving it."""

_BY_NAME = regex(r"self\.__dict__|vars\(self")


def schedules_never_moved(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls that make a schedule in a function or for an object that trains, and the name it gets."""
    if not module.mentions(("lr_scheduler", "schedule")) or module.role == "test":
        return
    told = set()
    for statement in module.tree.all(ast.Assign):
        made, name = statement.value, key(statement.targets[0])
        function = module.tree.function(statement)
        if not isinstance(made, ast.Call) or name is None or function is None or (function, name) in told:
            continue
        if not is_schedule_made(module, made) and not _is_made_by_own(module, made):
            continue
        told.add((function, name))
        if _is_left_by_object(module, made, name) or _is_left_in_function(module, function, name):
            yield made, name


def _is_left_in_function(module: Module, function: Function, name: str) -> bool:
    """Whether all that a function that trains does with a local name is to ask it, or to ask for it."""
    steps = [*(call for call, _ in optimizer_steps(module)), *trainings(module)]
    if "." in name or not any(module.tree.function(step) is function for step in steps):
        return False
    uses = [n for n in walk(function) if isinstance(n, ast.Name) and n.id == name]
    return "locals()" not in module.text_of(function) and all(_is_left(module, n) for n in uses)


def _is_left_by_object(module: Module, made: ast.Call, place: str) -> bool:
    """Whether nothing in the project does more with an attribute than to ask it, in a file that steps optimizers."""
    name = place.removeprefix("self.")
    if not place.startswith("self.") or "." in name or not optimizer_steps(module) or _BY_NAME.search(module.text):
        return False
    named = re.compile(rf"\.{name}\b|[\"']{name}[\"']")
    others = (text for path, text in module.project.texts("sched") if path != module.path)
    if re.search(rf"[\"']{name}[\"']", module.text) or any(name in text and named.search(text) for text in others):
        return False
    uses = [n for n in module.tree.all(ast.Attribute) if n.attr == name]
    return module.tree.class_of(made) is not None and all(_is_left(module, n) for n in uses)


def _is_made_by_own(module: Module, made: ast.Call) -> bool:
    """Whether a function of the project returns a schedule that it makes, and nothing else."""
    place = target(module, made, ("lr_scheduler",)) if "sched" in ast.unparse(made.func).lower() else None
    if place is None:
        return False
    where, function = place
    returned = [n.value for n in walk_scope(function) if isinstance(n, ast.Return)]
    values = [v for r in returned for v in (where.names.values(r.id, r) if isinstance(r, ast.Name) else [r])]
    return bool(values) and all(is_schedule_made(where, v) for v in values)


def _is_left(module: Module, node: ast.Name | ast.Attribute) -> bool:
    """Whether a use gives the name a value, asks the schedule, or asks whether there is one."""
    above = module.tree.parents[node]
    if isinstance(node.ctx, ast.Store):
        return True
    if isinstance(above, ast.Attribute):
        return above.attr in _ASKS
    if isinstance(above, ast.Compare):
        return all(isinstance(op, ast.Is | ast.IsNot) for op in above.ops)
    return isinstance(above, ast.FormattedValue) or (isinstance(above, ast.If | ast.IfExp) and above.test is node)
