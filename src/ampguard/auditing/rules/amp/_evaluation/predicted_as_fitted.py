"""Predictions by a model that was trained in the same object or script, which nothing puts into evaluation mode.

`trainer.fit(self.model)` leaves a model in training mode, and so does a loop of one's own; the trainer switches for its
own `test` and `predict`, but not where `self.model(batch)` is called by hand.
"""

import ast
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import bases, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, key, walk_scope
from ampguard.auditing.rules.amp._evaluation.modes import SETTLES, never_judged, runs
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, TRAINING_MODE_WANTED, off_around, run_model, source
from ampguard.auditing.rules.amp._evaluation.trained_here import is_trained_here
from ampguard.auditing.rules.amp._steps import enclosing

_PREDICTS = regex(r"_*(batch_)?(predict|infer|inference|classify|forecast|transcribe|translate|embed|encode)(_\w+)?_*")
_TRAINER = regex(r"[tT]rainer")
_PLAIN_BASES = regex(r"(\w+\.)*(object|ABC|\w*Mixin|Base(Estimator)?|\w*(Estimator|Regressor|Classifier))")
_TAKES_OUT = regex(r"\.cpu\(|\.numpy\(")
_SAYS = regex(r"\.eval\(|\.train\(|eval_mode\b|evaluating\w*\(")

Prediction = tuple[str, str, ast.Call]
"""The name of the function that predicts, or "" in a script, the model, and its run."""


def predicted_as_fitted(module: Module) -> Iterator[Prediction]:
    """Walk the predictions by models that a trainer's `fit` was handed, in files that put none into evaluation mode."""
    if not module.mentions((".fit(",)) or not module.mentions(("rainer",)) or not never_judged(module):
        return
    for fit in module.calls_of("fit"):
        place = key(fit.args[0]) if fit.args else None
        if place is None or not _TRAINER.search(ast.unparse(fit.func)):
            continue
        cls = module.tree.class_of(fit)
        if place.startswith("self.") and cls is not None:
            yield from _in_methods(module, cls, place)
        elif "." not in place:
            yield from _behind(module, fit, place)


def predicted_as_trained(module: Module) -> Iterator[Prediction]:
    """Walk the predictions of classes that train their model themselves; for files that put it into no other mode."""
    if not module.mentions(("def predict", "def infer", "def classify", "def forecast", "def embed", "def encode")):
        return
    for cls in module.tree.all(ast.ClassDef):
        for method in (item for item in cls.body if isinstance(item, FUNCTIONS) and _PREDICTS.fullmatch(item.name)):
            held = {p for n in walk_scope(method) if (p := run_model(n)) and p.startswith("self.")}
            for place in sorted(p for p in held if is_trained_here(module, p)):
                yield from (found for found in _in_methods(module, cls, place) if found[0] == method.name)


def _in_methods(module: Module, cls: ast.ClassDef, place: str) -> Iterator[Prediction]:
    """Walk the methods of a class that predict with a model of its own, as they find it."""
    if not all(_PLAIN_BASES.fullmatch(ast.unparse(base)) for base in cls.bases) or _may_switch(module, cls):
        return
    for method in (item for item in cls.body if isinstance(item, FUNCTIONS) and _PREDICTS.fullmatch(item.name)):
        run = next((call for call in runs(module, place) if module.tree.function(call) is method), None)
        if run is not None and _only_predicts(module, method, run):
            yield method.name, place, run


def _may_switch(module: Module, cls: ast.ClassDef) -> bool:
    """Whether a class that this one builds on says anything of a mode."""
    return any(_SAYS.search(where.text_of(base)) for where, base in bases(module, cls))


def _only_predicts(module: Module, function: Function, run: ast.Call) -> bool:
    """Whether a function takes values out of what a model gives, and leaves its mode alone, by all that it calls."""
    text = source(module, function)
    if ".backward(" in text or NEEDS.search(text) or TRAINING_MODE_WANTED.search(text):
        return False
    if not (off_around(module, run) or SETTLES.search(text) or _TAKES_OUT.search(text)):
        return False
    inner = (node for node in walk_scope(function) if isinstance(node, ast.Call))
    return not any(_SAYS.search(source(*place)) for c in inner if (place := target(module, c, (".eval(", ".train("))))


def _behind(module: Module, fit: ast.Call, place: str) -> Iterator[Prediction]:
    """Walk the first run of a model behind its fit in the same function or script, where values are taken out of it."""
    around = enclosing(module, fit)
    for run in runs(module, place):
        if enclosing(module, run) is not around or run.lineno <= fit.lineno:
            continue
        statement = ast.unparse(module.tree.statement(run))
        if off_around(module, run) or SETTLES.search(statement) or _TAKES_OUT.search(statement):
            yield getattr(around, "name", ""), place, run
            return
