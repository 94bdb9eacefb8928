"""Trainers with a scaler of their own that are handed to a checkpointer, which saves what their `state_dict` gives."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import assigned, constructed, method
from ampguard.auditing.reading.checkpoints import STATE_WORDS, Scaler, scalers
from ampguard.auditing.reading.module import Module

_CHECKPOINTER = regex(r"\w*[Cc]heckpoint(er|_?[Mm]anager|Saver)?")
_STATED = regex(r"caler\w*\.(state_dict|load_state_dict)\(")


def handed_with_their_trainer(module: Module) -> Iterator[tuple[ast.Call, Scaler]]:
    """Walk (the checkpointer's construction, the scaler) where the trainer's class puts the scaler into no state."""
    own = {s.scope: s for s in scalers(module) if isinstance(s.scope, ast.ClassDef) and _has_plain_bases(s.scope)}
    if not own or module.project.says(_STATED, *STATE_WORDS):
        return
    for name, calls in module.calls.items():
        for call in calls if _CHECKPOINTER.fullmatch(name) and name[:1].isupper() else ():
            for given in (*call.args, *(k.value for k in call.keywords)):
                made = [c for v in (given, *assigned(module, given)) if (c := constructed(module, v)) is not None]
                cls = next((c for where, c in made if where is module and c in own), None)
                if cls is not None and method(module, cls, "state_dict") is None:
                    yield call, own[cls]


def _has_plain_bases(cls: ast.ClassDef) -> bool:
    """Whether a class has bases, and none that is named as one that knows of scalers."""
    return bool(cls.bases) and not any(re.search(r"amp|mixed|scal|fp16", ast.unparse(b), re.I) for b in cls.bases)
