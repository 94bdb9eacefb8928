"""What kind of state something keeps: told by its construction, by its name, or by the key that it is saved under."""

import ast
import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.each import stands_for_each
from ampguard.auditing.reading.kinds import is_optimizer, is_scaler, is_scheduler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import key

_WORDS = (
    ("scaler", regex(r"scaler|(^|_)amp($|_)|loss_scale", re.I)),
    ("scheduler", regex(r"sched|(^|_)lrs?($|_)|lr_s", re.I)),
    ("optimizer", regex(r"optim|(^|_)opt_?(state|sd|dict)", re.I)),
    ("rng", regex(r"rng|random|(^|_)seeds?($|_)", re.I)),
    (
        "progress",
        regex(r"(^|_)(epochs?|iter|iters|iteration|it|n_?iter|steps?|global_?step|iter_?num)($|_)", re.I),
    ),
    (
        "model",
        regex(r"model|(^|_)nets?|network|state_?dict|weight|module|generator|discriminator|ema|codec", re.I),
    ),
)


def kinds_of_word(word: str) -> set[str]:
    """Return what a key or a name says that it is: {"optimizer"} for "optim_state"; several for "scaler_scheduler"."""
    return {kind for kind, pattern in _WORDS if pattern.search(word)}


def state_kinds(module: Module, owner: ast.expr | None) -> set[str]:
    """Return what an object is whose state is read; several where a loop reads that of one after another."""
    if owner is None:
        return {"model"}
    for kind, asks in (("scaler", is_scaler), ("scheduler", is_scheduler), ("optimizer", is_optimizer)):
        if asks(module, owner):
            return {kind}
    told = kinds_of_word((key(owner) or "").rpartition(".")[2])
    each = stands_for_each(module, owner) if not told else None
    return told or {kind for one in each or () for kind in _kinds_of_one(module, one)} or {"model"}


def _kinds_of_one(module: Module, one: ast.expr) -> set[str]:
    if isinstance(one, ast.Constant):
        return kinds_of_word(str(one.value)) or {"model"}
    return state_kinds(module, one)
