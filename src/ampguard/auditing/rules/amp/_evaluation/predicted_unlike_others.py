"""Predictions that switch no mode where others of their kind do it themselves: of their object, or of their project.

`Trainer.infer` beside `Trainer.eval_model`, which calls `self.model.eval()`; `Tagger.predict` beside another network's
`predict`, which calls `self.eval()`. One that a file calls that says `eval()` may find its model switched.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.kinds import is_network
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.modes import SETTLES, model_of
from ampguard.auditing.rules.amp._evaluation.runs import (
    NEEDS,
    OFF,
    TRAINING_MODE_WANTED,
    evaluates,
    mode_calls,
    source,
)
from ampguard.auditing.rules.amp._steps import callers

_PREDICTS = regex(r"(predict|infer|inference|embed|encode|classify|translate|transcribe|caption|recogni[sz]e)(_\w+)?")
_SAYS = regex(r"\.eval\(|\.train\(|set_mode|eval_mode\b|evaluating\w*\(|\.training\b|\w_eval\(|train=True")
_SWITCHES_ITSELF = r"^[ \t]+def {}\([^\n]*\n(?:[ \t]+[^\n]*\n|\n){{0,30}}?[ \t]+self\.eval\(\)"


def predicted_unlike_others(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk (the run, what is wrong, the fix)."""
    yield from _unlike_its_object(module)
    yield from _unlike_its_project(module)


def _unlike_its_object(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk the predictions of objects whose evaluation puts the model that they hold into evaluation mode."""
    if not module.mentions((".eval()",)) or not module.mentions(("predict", "infer", "embed", "encode", "classify")):
        return
    for switch in mode_calls(module, "eval"):
        owner, other, place = module.tree.class_of(switch), module.tree.function(switch), model_of(module, switch)
        if owner is None or other is None or place is None or not place.startswith("self."):
            continue
        if not evaluates(module, other) or switch.args:
            continue
        for function in _predictions(module, owner):
            run = next((n for n in walk_scope(function) if isinstance(n, ast.Call) and key(n.func) == place), None)
            if run is not None and (run.args or run.keywords) and _takes_values(module, function):
                message = f"{function.name}() never puts {place} into evaluation mode, as {other.name}() does"
                yield run, message, f"Call {place}.eval() in {function.name}()."


def _unlike_its_project(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk the predictions of networks where another network of the project puts itself into evaluation mode."""
    if not module.mentions(("def predict", "def infer")) or _SAYS.search(module.about("eval", "train")):
        return
    for cls in module.tree.all(ast.ClassDef):
        functions = [f for f in _predictions(module, cls) if f.name in ("predict", "infer")]
        for function in functions if is_network(module, cls) else ():
            run = _own_run(module, function)
            if run is not None and _another_switches(module, function.name):
                message = f"{function.name}() never calls self.eval(), as another network's {function.name}() does"
                yield run, message, f"Call self.eval() in {function.name}()."


def _predictions(module: Module, cls: ast.ClassDef) -> Iterator[Function]:
    """Walk the methods of a class that predict, say nothing of modes, and are called by nobody who does."""
    for function in (f for f in cls.body if isinstance(f, FUNCTIONS) and _PREDICTS.fullmatch(f.name)):
        text = source(module, function)
        if _SAYS.search(text) or NEEDS.search(text) or ".backward(" in text or TRAINING_MODE_WANTED.search(text):
            continue
        if not callers(module, function) and not _is_switched_by_others(module, function.name):
            yield function


def _is_switched_by_others(module: Module, name: str) -> bool:
    """Whether another file that calls a method of that name, and defines none, puts a model into evaluation mode."""
    question = ("switched by others", name)
    if question not in module.project.memo:
        asked, defined = re.compile(rf"(?<!\w){re.escape(name)}\("), f"def {name}("
        texts = ((path, text) for path, text in module.project.texts(".eval()") if defined not in text)
        module.project.memo[question] = frozenset(path for path, text in texts if asked.search(text))
    return bool(module.project.memo[question] - {module.path})


def _takes_values(module: Module, function: Function) -> bool:
    text = source(module, function)
    return bool(SETTLES.search(text) or OFF.search(text) or ".cpu()" in text) and "loss" not in text


def _own_run(module: Module, function: Function, *, depth: int = 0) -> ast.Call | None:
    """Return the call in a method, or in one of its object's that it calls, that runs the network itself."""
    for node in walk_scope(function):
        if not isinstance(node, ast.Call) or not (node.args or node.keywords):
            continue
        if key(node.func) in ("self", "self.forward"):
            return node
        if key(receiver(node)) == "self" and _PREDICTS.fullmatch(called(node)) and depth == 0:
            place = target(module, node)
            found = _own_run(module, place[1], depth=1) if place is not None and place[0] is module else None
            if found is not None:
                return found
    return None


def _another_switches(module: Module, name: str) -> bool:
    """Whether a method of that name calls `self.eval()`: in another file, since the one at hand says no mode."""
    question = ("switches itself", name)
    if question not in module.project.memo:
        asked = re.compile(_SWITCHES_ITSELF.format(re.escape(name)), re.MULTILINE)
        texts = module.project.texts("self.eval()")
        module.project.memo[question] = any(asked.search(text) for _, text in texts)
    return bool(module.project.memo[question])
