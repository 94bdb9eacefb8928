"""Predictions from one batch, outside of any loop, with gradients on: in functions and objects that judge or serve.

That the model is there to be judged is told by an `eval()`: in the function itself, or in the object that holds it.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import attributes, bases, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.project import Project
from ampguard.auditing.reading.tree import Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.modes import model_of
from ampguard.auditing.rules.amp._evaluation.runs import NEEDS, OFF, looped, mode_calls, off_around, source
from ampguard.auditing.rules.amp._evaluation.same_models import bare
from ampguard.auditing.rules.amp._steps import callers

_PREDICTS = regex(
    r"_*(run_|do_|model_)?(predict|infer|inference|eval|evaluate|validate|classify|transcribe|translate|synthesi[sz]e|segment|detect"
    r"|tts|recogni[sz]e|caption|embed|encode|decode|sample|generate|preview|visuali[sz]e|score|test|demo)(_\w+)?|main|__call__|_*(get|extract|compute)_(\w+_)?(features?|embeddings?|logits)"
)
_TRAINS = regex(r"train|fit|loss|backward|optimi[sz]e|attack|(^|_)step|^(forward|__init__)$")
_LEFT_TO_A_FRAMEWORK = regex(r"set_grad_enabled|^\s*(import|from)\s+(pytorch_)?lightning", re.MULTILINE)
_RUNS = frozenset({"forward", "infer", "inference", "predict"})
_RUNS_TOO = regex(r"(?:\w+_)?(?:forward|infer|inference|predict|generate|sample|decode|synthesi[sz]e)(?:_\w+)?")
"""Methods that run a model where the project defines them, and switch gradients off in none of their definitions."""

_OFF = regex(r"no_grad|inference_mode|set_grad_enabled\(False|autograd\.grad_mode")


def single_runs(module: Module) -> Iterator[tuple[Function, ast.Call, str]]:
    """Walk (the function, the run, the model) of predictions that record a graph which nobody uses."""
    evaluated = _evaluated(module)
    framework = bool(evaluated) and _LEFT_TO_A_FRAMEWORK.search(module.about("lightning", "set_grad_enabled"))
    for function in module.functions if evaluated and not framework else ():
        own = evaluated.get(function, set()) | {
            place
            for place in evaluated.get(module.tree.class_of(function) or module.root, ())
            if place.startswith("self.")
        }
        if not own or _TRAINS.search(function.name) or _run_by_a_framework(module, function):
            continue
        text = source(module, function)
        if ".backward(" in text or NEEDS.search(text):
            continue
        found = ((c, p) for c in walk_scope(function) if isinstance(c, ast.Call) and (p := _run(module, c, own)))
        named = bool(_PREDICTS.fullmatch(function.name))
        runs = ((c, p) for c, p in found if named or (looped(module, c) and p.startswith("self.")))
        recorded = next(((c, p) for c, p in runs if not _is_off(module, function, c)), None)
        if recorded is not None:
            yield function, *recorded


def _evaluated(module: Module) -> dict[ast.AST, set[str]]:
    """Return the models that are put into evaluation mode, by the function that does and the class that holds them."""
    found: dict[ast.AST, set[str]] = {}
    for call in mode_calls(module, "eval"):
        place, function, owner = model_of(module, call), module.tree.function(call), module.tree.class_of(call)
        if place is None or function is None or call.args:
            continue
        found.setdefault(function, set()).add(place)
        if owner is None or _is_module(owner):
            continue  # parts of a module are put into evaluation mode to freeze them, and run in training
        if place.startswith("self."):
            found.setdefault(owner, set()).update({place, *_wrapped_as(module, owner, place)})
        for node in walk_scope(function):
            if isinstance(node, ast.Assign) and key(node.value) == place:
                held = {p for t in node.targets if (p := key(t)) and p.startswith("self.")}
                found.setdefault(owner, set()).update(held)
    return found


def _wrapped_as(module: Module, owner: ast.ClassDef, place: str) -> Iterator[str]:
    """Walk the attributes that hold a model under another name: `self.wrapped = DataParallel(self.model)`."""
    for name, values in attributes(module, owner).items():
        if any(bare(value) == place for value in values):
            yield f"self.{name}"


def _is_module(owner: ast.ClassDef) -> bool:
    return any(re.search(r"Module|Model\b|Policy|Net\b", ast.unparse(base)) for base in owner.bases)


def _run_by_a_framework(module: Module, function: Function) -> bool:
    """Whether a function belongs to a class of a kind whose methods a framework calls, mostly with gradients off.

    A base of the project that builds on nothing, in a file that switches no gradients off, is no framework.
    """
    owner = module.tree.class_of(function)
    if owner is None or not any(_FRAMEWORKS.search(ast.unparse(base)) for base in owner.bases):
        return False
    above = list(bases(module, owner))
    plain = any(not cls.bases for _, cls in above) and not any(OFF.search(where.text) for where, _ in above)
    return not plain or len(above) < len(owner.bases)


_FRAMEWORKS = regex(r"Brain|Trainer|Task|System|Callback|Learner|Hook|Recipe|Criterion|Metric")


def _run(module: Module, call: ast.Call, places: set[str]) -> str | None:
    """Return the model that a call runs: `model(x)`, `self.model.forward(x)`, `vocoder.infer(x)`, `net.sample(x)`."""
    place, owner, name = key(call.func), key(receiver(call)), called(call)
    if not call.args and not call.keywords:
        return None
    if place in places:
        return place
    if owner not in places or not (name in _RUNS or _RUNS_TOO.fullmatch(name)):
        return None
    return owner if name in _RUNS or defined_recording(module.project, name) else None


def _is_off(module: Module, function: Function, run: ast.Call) -> bool:
    """Whether gradients are off around a run: in its function, where that is called, or in what it runs."""
    if off_around(module, run) or any(off_around(module, c) for c in callers(module, function)):
        return True
    if any(isinstance(n, ast.Expr) and _OFF.search(ast.unparse(n)) for n in function.body):
        return True
    place = target(module, run)
    if place is not None and _OFF.search(source(*place)):
        return True
    if called(run) in _RUNS - {"forward"} and place is None and _defined_off(module.project, called(run)):
        return True
    return function.name != "main" and called_where_off(module, function)


def _defined_off(project: Project, name: str) -> bool:
    """Whether any function of that name in the project switches gradients off by a decorator."""
    return project.says(
        re.compile(rf"(no_grad|inference_mode)[^\n]*\n\s*(@[^\n]*\n\s*)*(async )?def {re.escape(name)}\(")
    )


def defined_recording(project: Project, name: str, *, depth: int = 0) -> bool:
    """Whether the project defines methods of that name, and none switches gradients off, nor what it hands on to."""
    question = ("defined recording", name, depth)
    if question not in project.memo:
        defined = re.compile(_DEFINITION.format(re.escape(name)), re.MULTILINE)
        texts = [m[0] for _, text in project.texts(f"def {name}(") for m in defined.finditer(text)]
        on = bool(texts) and not any(OFF.search(text) for text in texts)
        handed = {to for text in texts for to in _HANDS_ON.findall(text)} - {name} if on and depth < _DEPTH else set()
        project.memo[question] = on and all(defined_recording(project, to, depth=depth + 1) for to in sorted(handed))
    return bool(project.memo[question])


_DEPTH = 3
_HANDS_ON = regex(r"\.((?:\w+_)?(?:generate|inference)(?:_\w+)?)\(")
"""Names under which libraries switch gradients off."""

_DEFINITION = (
    r"^(?:[ \t]+@[^\n]*\n)*([ \t]+)(?:async )?def {}\("
    r"(?:[^\n]*\n)(?:(?!\1(?:(?:def|class|async)\b|@))(?!\S)[^\n]*\n)*"
)
"""A method with its decorators, to the next one or the end of its class."""
