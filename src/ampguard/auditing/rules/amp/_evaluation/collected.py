"""Features that a Lightning `training_step` collects for an evaluation: the trainer has put the model in training mode.

Such a step trains nothing: it gives no loss back and runs no backward pass. What it gathers for a nearest-neighbour
or a linear probe was computed with dropout and with the statistics of the batch, which also moves those of BatchNorm.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, called, key, walk, walk_scope

_BACKWARD = ("manual_backward", "backward", "step", "toggle_optimizer")
_COLLECTS = ("append", "extend", "update", "add", "cat")
_RUNS = (
    "self.model",
    "self.backbone",
    "self.encoder",
    "self.net",
    "self.network",
    "self.feature_extractor",
    "self.module",
)


def collected_while_training(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Walk the runs of models whose features a `training_step` without a loss collects, each with what is wrong."""
    if "def training_step(" not in module.text:
        return
    for cls in module.tree.all(ast.ClassDef):
        for step in (m for m in cls.body if isinstance(m, FUNCTIONS) and m.name == "training_step"):
            inner = list(walk_scope(step))
            calls = [n for n in inner if isinstance(n, ast.Call)]
            names = {called(c) for c in calls}
            gives = any(isinstance(n, ast.Return) and not _is_none(n.value) for n in inner)
            if gives or names & {*_BACKWARD} or not names & {*_COLLECTS} or _is_put_into_eval(cls):
                continue
            runs = [c for c in calls if (key(c.func) or "").removesuffix(".forward") in _RUNS]
            for run in runs[:1]:
                does = "runs in training mode: its features are kept, and no loss is returned"
                yield run, f"{module.segment(run, 40)} {does}"


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_put_into_eval(cls: ast.ClassDef) -> bool:
    """Whether a class switches its model, or is not allowed to be read so: `self.model.eval()`, `train(False)`."""
    return any(isinstance(n, ast.Attribute) and n.attr in ("eval", "train", "training", "freeze") for n in walk(cls))
