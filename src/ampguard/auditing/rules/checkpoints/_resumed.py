"""Runs that are resumed, as they say themselves, from files that hold a model alone.

`if args.resume: model.load_state_dict(torch.load(args.resume))` before a training that saves `model.state_dict()` every
so often: what is resumed takes the model up again, and nothing of where the training stood.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned
from ampguard.auditing.reading.checkpoints import Save, restored, saves
from ampguard.auditing.reading.guards import tests_before
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import is_none_literal

_RESUMES = regex(r"(?<![a-z])(auto_?)?resum(e|ed|ing)(?![a-z])|(?<![a-z])continue_(from|train\w*)", re.IGNORECASE)
_STARTS_ANEW = regex(r"pre_?train|fine_?tun|transfer|warm_?start|init|backbone|imagenet", re.IGNORECASE)
"""Words of weights that a training begins with, rather than goes on from."""


def saved_to_be_resumed(module: Module) -> Iterator[Save]:
    """Walk the saves of a model alone in the loops of a training that takes up such a file when it is resumed."""
    if not module.mentions(("resum", "RESUM", "continue_")):
        return
    for save in saves(module):
        looped = any(True for _ in module.tree.loops(save.call))
        if looped and not save.holds.open and save.holds.kinds == {"model"} and _is_resumed(module, save.call):
            yield save


def _is_resumed(module: Module, save: ast.Call) -> bool:
    """Whether the function, or the class, of a save loads a model from what is resumed."""
    scope, cls = module.tree.scope(save), module.tree.class_of(save)
    loads = restored(module).get("model", ())
    near = (c for c in loads if module.tree.scope(c) is scope or (cls is not None and module.tree.class_of(c) is cls))
    return any(_resumes(module, load) for load in near)


def _resumes(module: Module, load: ast.Call) -> bool:
    """Whether a load is made from a path, or under a test, that speaks of resuming and of nothing that begins anew."""
    given = [ast.unparse(value) for a in load.args for value in (a, *assigned(module, a))]
    asked = [ast.unparse(test) for test, truth in tests_before(module, load) if truth is not _is_denied(test)]
    words = " ".join((*given, *asked))
    return bool(_RESUMES.search(words)) and not _STARTS_ANEW.search(words)


def _is_denied(test: ast.expr) -> bool:
    """Whether a test asks whether there is nothing: `not args.resume`, `args.resume is None`."""
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.Is | ast.Eq) and is_none_literal(test.comparators[0])
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
