"""Functions that save or restore an optimizer, are given a scaler or a scheduler as well, and do nothing with it."""

import ast
import re
from collections.abc import Iterable, Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import restored
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function, called, walk_scope
from ampguard.auditing.reading.unused import unused_parameters

SCALER = regex(r"(grad_?|loss_?|amp_?)?scaler")
SCHEDULER = regex(r"(lr_?)?sched(uler)?")
OPTIMIZER = regex(r"(the_)?optim(izers?)?|opt")

_LOADS = regex(r"_*(\w+_)?(load|resume|restore)(_\w+)?")


def given_in_vain(module: Module, name: re.Pattern[str]) -> Iterator[tuple[ast.Call, str]]:
    """Walk the restores of an optimizer, each with the parameter of that name that its function never uses."""
    return in_vain_beside(module, restored(module).get("optimizer", ()), name)


def in_vain_beside(module: Module, calls: Iterable[ast.Call], name: re.Pattern[str]) -> Iterator[tuple[ast.Call, str]]:
    """Walk the calls, the first of each function, with the parameter of that name that their function never uses."""
    told = set()
    for call in calls:
        function = module.tree.function(call)
        if function is None or function in told:
            continue
        told.add(function)
        for unused in sorted(unused_parameters(function)):
            if name.fullmatch(unused):
                yield call, unused


def optimizer_in_vain(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the restores of a model in functions that load a checkpoint, are given the optimizer and leave it alone."""
    for load, name in in_vain_beside(module, restored(module).get("model", ()), OPTIMIZER):
        function = module.tree.function(load)
        cls = module.tree.parents.get(function) if function is not None else None
        derived = isinstance(cls, ast.ClassDef) and bool(cls.bases)  # its base may say what it is given
        if function is not None and not derived and _LOADS.fullmatch(function.name) and _reads_file(function):
            yield load, name


def _reads_file(function: Function) -> bool:
    names = (called(node) for node in walk_scope(function) if isinstance(node, ast.Call))
    return any("load" in name and name != "load_state_dict" for name in names)
