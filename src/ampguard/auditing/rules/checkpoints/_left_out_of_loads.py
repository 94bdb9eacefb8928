"""Restores that leave something as it was made: the schedule beside an optimizer, or the optimizer that was saved."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import restored, saves
from ampguard.auditing.reading.kinds import is_optimizer
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.state_kinds import kinds_of_word
from ampguard.auditing.reading.tree import called, key, walk_scope
from ampguard.auditing.rules.checkpoints._handed import handed_saves
from ampguard.auditing.rules.checkpoints._progress_apart import progress_reads

_LOADS = regex(r"load|resume|restore|prepare|init|checkpoint|ckpt|state", re.IGNORECASE)


def left_out_of_loads(module: Module, schedule: ast.expr | None) -> Iterator[tuple[ast.Call, str]]:
    """Walk the restores of an optimizer beside that of a model, each with the schedule that its file or class steps."""
    loads = restored(module)
    place = key(schedule)
    if place is None or "scheduler" in loads or "last_epoch" in module.text:
        return
    if any("optimizer" in save.holds.kinds or save.holds.open for save in (*saves(module), *handed_saves(module))):
        return
    models = {module.tree.function(call) for call in loads.get("model", ())}
    for call in loads.get("optimizer", ()):
        function = module.tree.function(call)
        if (
            function in models
            and function is not None
            and _reads_file(function)
            and _of_one_class(module, call, schedule)
        ):
            yield call, place
            return


def optimizer_left_out(module: Module, optimizer: ast.expr | None) -> Iterator[tuple[ast.Call, str]]:
    """Walk the restore of a model beside which the epoch is taken up again, and the optimizer's saved state is not."""
    loads, place = restored(module), key(optimizer)
    if place is None or "optimizer" in loads or not _saves_optimizer(module) or _may_load(module):
        return
    taken = (read for read in progress_reads(module) if isinstance(module.tree.statement(read), ast.Assign))
    resumed = {module.tree.scope(read) for read in taken}
    yield from ((call, place) for call in loads.get("model", ())[:1] if module.tree.scope(call) in resumed)


def _saves_optimizer(module: Module) -> bool:
    return any({"optimizer", "model"} <= save.holds.kinds for save in saves(module))


def _may_load(module: Module) -> bool:
    """Whether the file reads an optimizer's state from something, or hands an optimizer to what may load it."""
    words = (n.slice.value for n in module.tree.all(ast.Subscript) if isinstance(n.slice, ast.Constant))
    given = (c.args[0].value for c in module.calls_of("get", "pop") if c.args and isinstance(c.args[0], ast.Constant))
    if any("optimizer" in kinds_of_word(word) for word in (*words, *given) if isinstance(word, str)):
        return True
    handing = (c for name, calls in module.calls.items() if _LOADS.search(name) for c in calls)
    return any(is_optimizer(module, a) for c in handing for a in (*c.args, *(k.value for k in c.keywords)))


def _reads_file(function: ast.AST) -> bool:
    names = (called(node) for node in walk_scope(function) if isinstance(node, ast.Call))
    return any("load" in name and name != "load_state_dict" for name in names)


def _of_one_class(module: Module, call: ast.Call, schedule: ast.expr | None) -> bool:
    """Whether what is restored and what is stepped belong to one object, or to no object."""
    return schedule is not None and module.tree.class_of(call) is module.tree.class_of(schedule)
