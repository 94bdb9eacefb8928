"""Functions that restore an optimizer, are given a scaler or a scheduler as well, and do nothing with it."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.reading.checkpoints import restored
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import walk_scope


def given_in_vain(module: Module, name: re.Pattern[str]) -> Iterator[tuple[ast.Call, str]]:
    """Walk the restores of an optimizer, each with the parameter of that name that its function never reads."""
    told = set()
    for load in restored(module).get("optimizer", ()):
        function = module.tree.function(load)
        if function is None or function in told:
            continue
        told.add(function)
        read = {n.id for n in walk_scope(function) if isinstance(n, ast.Name)}
        for arg, _ in parameters(function):
            if name.fullmatch(arg.arg) and arg.arg not in read and "locals" not in read:
                yield load, arg.arg


SCALER = re.compile(r"(grad_?|loss_?|amp_?)?scaler")
SCHEDULER = re.compile(r"(lr_?)?sched(uler)?")
