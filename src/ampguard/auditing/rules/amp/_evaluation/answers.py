"""Runs of models whose answers alone are used, while autograd records: scripts, predictors, whatever their names.

A model is known by what its file does to it (reads its weights, puts it into evaluation mode, builds it) or by its
name. Code that takes values out of what it gives, and neither trains nor works with gradients, needs no graph. That it
is there to be used is told by the weights that its file loads, by an `eval()`, or by the function's name.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.models_here import models_here, runs_of
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, OFF, looped, off_around, source
from ampguard.auditing.rules.amp._steps import callers, enclosing

_TRAINS = regex(
    r"train(?!ed)|fit\b|loss|backward|optimi[sz]e|attack|(^|_)step|^(forward|__init__|setup|build)|tune|calib|hook|profil"
    r"|bench|export|trace|warm|explain|attribut|grad|visualize_cam|dream|invert|(^|_)(flops|macs|summary|output_size)"
)
_USES = regex(
    r"predict|infer|(^|_)(eval|valid|test|score|classif|embed|extract|sampl|generat|caption|transl|transcri|synthes"
    r"|detect|segment|recogni|encod|decod|demo|run|process|compute|save|create|convert|main|app|separat|enhanc)|__call__"
)
_LOADS = ("load_state_dict", "load_from_checkpoint", "load_weights", "load_checkpoint", "torch.load(", "load_model(")
_GATHERS = regex(r"(features?|embeddings?|latents?|mels?|alignments?|representations?|predictions?|logits|codes)$")
_VALUES = regex(
    r"\.(cpu|numpy|item|tolist|detach|argmax|topk)\(|\.data\b|torch\.(max|argmax|topk|save)\(|argmax\(|\bnp\.|cv2\."
    r"|metric|meter|accuracy|score|write|imsave|save_|append\("
)
_WORKS_WITH_GRADIENTS = regex(r"\.backward\(|optim\b|optim\.|optimizer|criterion\.|requires_grad|autograd")


def recorded_answers(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk (the run, what is wrong), once a function."""
    loads = module.mentions(_LOADS)
    if "torch" not in module.text:
        return
    seen: set[ast.AST] = set()
    for place in sorted(models_here(module)):
        for run in runs_of(module, place):
            around = enclosing(module, run)
            if around in seen or not _is_used(module, run, around, place, loads=loads):
                continue
            seen.add(around)
            if not _is_off(module, run, around):
                yield run, f"{place} runs here for its answers alone, with gradients on"


def _is_used(module: Module, run: ast.Call, around: ast.AST, place: str, *, loads: bool) -> bool:
    """Whether a run stands in code that uses a model, trains nothing, and takes values out of what it gives."""
    name = getattr(around, "name", "main")
    text = source(module, around) if isinstance(around, FUNCTIONS) else module.text
    cls = module.tree.class_of(run)
    if _TRAINS.search(name) or _WORKS_WITH_GRADIENTS.search(text) or NEEDS.search(text):
        return False
    if not _VALUES.search(text):
        return False
    written = text if cls is None else module.text_of(cls)
    if not (_GATHERS.search(name) and looped(module, run)):
        judged = f"{place}.eval()" in written or (loads and ".backward(" not in module.text)
        if not judged or not (looped(module, run) or _USES.search(name)):
            return False
    return cls is None or not ("training_step" in written or is_network(module, cls))


def _is_off(module: Module, run: ast.Call, around: ast.AST) -> bool:
    """Whether gradients are off around a run, anywhere in its function, or where that is called."""
    if off_around(module, run):
        return True
    if not isinstance(around, FUNCTIONS):
        return bool(_OFF_FOR_GOOD.search(module.text))
    if any(OFF.search(line) for line in source(module, around).split("\n") if "with " not in line):
        return True
    if any(off_around(module, c) for c in callers(module, around)):
        return True
    return around.name != "main" and called_where_off(module, around)


_OFF_FOR_GOOD = regex(r"^(torch\.)?(set_grad_enabled\(False|autograd\.set_grad)", re.MULTILINE)
