"""Functions that save or restore an optimizer, are given a scaler or a scheduler as well, and do nothing with it."""

import ast
import re
from collections.abc import Iterable, Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import restored
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.unused import unused_parameters

SCALER = regex(r"(grad_?|loss_?|amp_?)?scaler")
SCHEDULER = regex(r"(lr_?)?sched(uler)?")


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
