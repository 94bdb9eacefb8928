"""Classes around a scaler that keep its state to themselves: no `state_dict` of theirs gives it to who saves.

    class NativeScaler:
        def __init__(self):
            self._scaler = GradScaler()

Whoever asks such an object for its state gets an AttributeError, and nobody else can save it, as long as no code of the
project reaches through to the scaler inside.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import STATE_WORDS, Scaler, scalers
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, key

_GIVES = regex(r"state_dict|__getattr(ibute)?__|__getstate__|\w*(save|checkpoint|ckpt)\w*|state|get_state|properties")
_OPTIMIZER_SAVED = regex(
    r"optim\w*(\.\w+|\[[^\]\n]*\])*\.state_dict\(|[\"']optim\w*[\"']\s*[,:]\s*(self\.)?optim", re.IGNORECASE
)
_MADE = regex(r"\b(GradScaler|NativeScaler|NativeScalerWithGradNormCount)\(")


def wrappers_without_state(module: Module) -> Iterator[tuple[ast.ClassDef, Scaler]]:
    """Walk the classes whose scaler no code can save, in a project that saves optimizers beside scalers."""
    if module.role in ("test", "benchmark", "example"):
        return
    for scaler in scalers(module):
        cls = scaler.scope
        if not isinstance(cls, ast.ClassDef) or scaler.made is None or not _keeps_to_itself(module, cls):
            continue
        if _is_the_only_one(module, cls) and _is_out_of_reach(module, scaler.place.removeprefix("self.")):
            yield cls, scaler


def _keeps_to_itself(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class builds on nothing, defines nothing that gives its state away, and speaks of no state itself."""
    if any(key(base) != "object" for base in cls.bases) or cls.keywords or cls.decorator_list:
        return False
    methods = [item.name for item in cls.body if isinstance(item, FUNCTIONS)]
    return not any(_GIVES.fullmatch(name) for name in methods) and "state_dict" not in module.text_of(cls)


def _is_the_only_one(module: Module, cls: ast.ClassDef) -> bool:
    """Whether no other file makes a scaler, and one that speaks of a scaler saves an optimizer's state.

    Where that one makes the object itself, and the class is called a scaler, the finding stands at the save.
    """
    others = [text for path, text in module.project.texts(*STATE_WORDS) if path != module.path and "test" not in path]
    saving = [text for text in others if "caler" in text and _OPTIMIZER_SAVED.search(text)]
    if not saving or ("Scaler" in cls.name and any(f"{cls.name}(" in text for text in saving)):
        return False
    return not any(_MADE.search(text) for text in others) and len(_MADE.findall(module.text)) == 1


def _is_out_of_reach(module: Module, name: str) -> bool:
    """Whether no code of the project takes the scaler out of its object: `loss_scaler._scaler.state_dict()`."""
    at_work = r"\.(scale|step|update|unscale_|get_scale|is_enabled)\("
    outside = re.compile(rf"\w\.{re.escape(name)}\b(?!{at_work})|[\"']{re.escape(name)}[\"']")
    return not any(outside.search(text) for path, text in module.project.texts(name) if path != module.path)
