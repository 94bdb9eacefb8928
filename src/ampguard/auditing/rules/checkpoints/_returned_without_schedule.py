"""What a class that trains returns as its state, with the model's and the optimizer's in it and not its schedule's.

`def state_dict(self): return {"model": ..., "optimizer": ...}` is a checkpoint, whoever writes it to a file.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.payloads import contents
from ampguard.auditing.reading.tree import FUNCTIONS, key, receiver, walk_scope
from ampguard.auditing.rules.checkpoints._handed import RETURNS
from ampguard.auditing.rules.checkpoints._schedule_state import follows_metric

_OF_RATES = regex(r"scheduler|(^|[._])lr", re.IGNORECASE)
_OF_OTHERS = regex(r"(^|[._])(pp|pipe\w*|noise|mask|ema|beta|temp\w*|kl|batch|sampl\w*|curricul\w*)_", re.IGNORECASE)
"""Schedules of pipelines, of noise and the like move no learning rate."""


def returned_without_schedule(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Walk (the state that is returned, the schedule that a method of the same class steps)."""
    if not module.mentions(("sched",)) or module.role == "test":
        return
    told = set()
    for step in module.calls_of("step"):
        cls, place = module.tree.class_of(step), key(receiver(step))
        if cls is None or cls in told or place is None or not place.startswith("self."):
            continue
        if not _OF_RATES.search(place) or _OF_OTHERS.search(place):
            continue
        plain = not step.args and not step.keywords
        if is_scheduler(module, receiver(step)) and (plain or follows_metric(step)):
            told.add(cls)
            yield from ((state, place) for state in _states(module, cls))


def _states(module: Module, cls: ast.ClassDef) -> Iterator[ast.expr]:
    """Walk the states of model and optimizer, without a schedule's, that the methods of a class return."""
    for method in cls.body:
        if not isinstance(method, FUNCTIONS) or not RETURNS.fullmatch(method.name):
            continue
        for node in walk_scope(method):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Name | ast.Dict):
                holds = contents(module, node.value)
                known = not holds.open and holds.parameter is None
                if known and {"model", "optimizer"} <= holds.kinds and "scheduler" not in holds.kinds:
                    yield node.value
