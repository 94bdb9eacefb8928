"""Models that are run for their answers in the middle or at the end of a training, which has put them in training mode.

A helper that is handed the model and samples from it without gradients; a hook behind the training that gathers
features; an evaluation that generates in a script that never says a mode; a trace of the trained model for a file.
"""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.collected_outputs import collecting_loops
from ampguard.auditing.rules.amp._evaluation.runs import (
    MODEL,
    NEEDS,
    TRAINING_MODE_WANTED,
    evaluates,
    looped,
    off_around,
    run_model,
    source,
)
from ampguard.auditing.rules.amp._evaluation.same_models import bare
from ampguard.auditing.rules.amp._evaluation.unswitched import switched_where_run
from ampguard.auditing.rules.amp._steps import callers

Told = tuple[ast.Call, str, str]
"""A run, what is wrong with it, and the fix."""

_SAYS = regex(r"\.eval\(|\.train\(|set_mode|\beval_mode\b|evaluating\w*\(|functional_call|\.training\b|\w_eval\(")
_SAMPLES = regex(r"sample|greedy|generat|decod|baseline")
_NO_STUDENT = regex(r"teacher|ema|ref(erence)?_|frozen|pretrain|target", re.IGNORECASE)
_AFTER = regex(r"_?(after_train\w*|on_train_end|on_fit_end|after_fit|_after_training\w*|on_training_end)")
_GATHERS = regex(
    r"(save|extract|compute|get|collect|dump|export|store|build|make)_?\w*(feature|embedding|output|code)s?\w*"
)
_OF_THE_MODEL = regex(r"self\.(model|net|network)(\.\w*|$)")


def judged_while_training(module: Module) -> Iterator[Told]:
    """Walk every such run."""
    yield from _sampled_by_helpers(module)
    yield from _gathered_behind_training(module)
    yield from _gathered_for_others(module)
    yield from _generated(module)
    yield from _traced(module)


def _sampled_by_helpers(module: Module) -> Iterator[Told]:
    """Walk the samples that a function takes, without gradients, of a model that a training loop hands it."""
    if not module.mentions(("no_grad", "inference_mode", "volatile")) or not module.mentions((".numpy()",)):
        return
    if _SAYS.search(module.about("eval", "train", "mode", "functional_call")):
        return
    for function in module.functions:
        handed = {a.arg for a, _ in parameters(function) if MODEL.search(a.arg) and not _NO_STUDENT.search(a.arg)}
        text = source(module, function) if handed else ""
        if not text or ".numpy()" not in text or ".backward(" in text or TRAINING_MODE_WANTED.search(text):
            continue
        for call in (n for n in walk_scope(function) if isinstance(n, ast.Call) and key(n.func) in handed):
            off = off_around(module, call) or "volatile=True" in ast.unparse(call)
            statement = ast.unparse(module.tree.statement(call))
            if off and _SAMPLES.search(statement) and _is_run_by_a_training(module, function):
                model = key(call.func) or ""
                message = f"{function.name}() samples from {model} in the mode in which it trains"
                yield call, message, f"Call {model}.eval() before, and {model}.train() after."
                break


def _is_run_by_a_training(module: Module, function: Function) -> bool:
    """Whether another file runs a function beside a backward pass, after `.train()`, and none calls eval()."""
    name = f"{function.name}("
    texts = (text for path, text in module.project.texts(".backward(") if path != module.path)
    return any(name in t and ".train()" in t for t in texts) and not switched_where_run(module, function.name)


def _gathered_behind_training(module: Module) -> Iterator[Told]:
    """Walk the runs over data of methods without gradients that a hook behind the training calls."""
    hooks = [f for f in module.functions if _AFTER.fullmatch(f.name)] if module.mentions(("no_grad",)) else []
    for hook in hooks:
        inner = [n for n in walk_scope(hook) if isinstance(n, ast.Call) and key(receiver(n)) == "self"]
        names = {called(n) for n in inner}
        if _SAYS.search(source(module, hook)):
            continue
        for function in (f for f in module.functions if f.name in names and not f.name.startswith("eval")):
            text = source(module, function)
            if _SAYS.search(text) or NEEDS.search(text) or TRAINING_MODE_WANTED.search(text):
                continue
            run = next((n for n in walk_scope(function) if isinstance(n, ast.Call) and _is_of_the_model(n)), None)
            if run is not None and off_around(module, run) and looped(module, run):
                message = f"{function.name}() runs {module.segment(run.func, 40)} behind the training, in its mode"
                yield run, message, f"Call self.model.eval() in {hook.name}()."


def _is_of_the_model(call: ast.Call) -> bool:
    """Whether a call runs the model that an object trains, or a part of it."""
    return bool(call.args) and _OF_THE_MODEL.match(run_model(call) or "") is not None


def _gathered_for_others(module: Module) -> Iterator[Told]:
    """Walk the outputs that a function gathers of a model that it is handed, where nobody says a mode."""
    if not module.mentions((".append(", ".extend(")):
        return
    for loop, run in collecting_loops(module):
        function = module.tree.function(loop)
        if not isinstance(function, FUNCTIONS) or not _GATHERS.fullmatch(_spelled(function.name)):
            continue
        text = source(module, function)
        if _SAYS.search(text) or TRAINING_MODE_WANTED.search(text) or not _is_handed(module, function, run):
            continue
        if _is_run_elsewhere(module, function) and not switched_where_run(module, function.name, but=module.path):
            message = f"{function.name}() gathers what {module.segment(run.func, 30)} gives in whatever mode it is in"
            yield run, message, f"Call {module.segment(run.func, 30)}.eval() before the loop."


def _spelled(name: str) -> str:
    """Return a name with underscores in place of capitals."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _is_handed(module: Module, function: Function, run: ast.Call) -> bool:
    """Whether a call runs a parameter of the function, or a wrapper that is made of one here."""
    names = {arg.arg for arg, _ in parameters(function)}
    place = bare(run.func)
    wrapped = {bare(value) for value in module.names.values(place, run)} if place else set()
    return place in names or bool(wrapped & names)


def _is_run_elsewhere(module: Module, function: Function) -> bool:
    texts = (text for path, text in module.project.texts(f"{function.name}(") if path != module.path)
    return not callers(module, function) and any(True for _ in texts)


def _generated(module: Module) -> Iterator[Told]:
    """Walk the evaluations that generate with a model that the file trains, where it says no mode at all."""
    if not module.mentions((".generate(",)) or not module.mentions((".backward(",)):
        return
    if _SAYS.search(module.about("eval", "train", "mode", "functional_call")):
        return
    trained = {run_model(n) for n in module.tree.all(ast.Call) if isinstance(n.func, ast.Name) and n.args}
    for call in module.calls_of("generate"):
        function, place = module.tree.function(call), key(receiver(call))
        if (
            function is None
            or place is None
            or place not in trained
            or not evaluates(module, function)
            or not looped(module, call)
        ):
            continue
        if f"{place} = " in module.text and re.search(rf"\b{re.escape(place)} *=[^\n]*from_pretrained", module.text):
            continue  # the library gives it in evaluation mode
        yield (
            call,
            f"{function.name}() generates with {place}, and nothing in this file calls eval()",
            (f"Call {place}.eval() before, and {place}.train() when training goes on."),
        )


def _traced(module: Module) -> Iterator[Told]:
    """Walk the traces for a file of a model that its object also trains, where the file never calls eval()."""
    if not module.mentions(("torch.jit.trace(",)) or re.search(r"\.eval\(|eval_mode\b|\.training\b", module.text):
        return
    for call in module.calls_of("trace"):
        owner, place = module.tree.class_of(call), key(call.args[0]) if call.args else None
        if owner is None or not (place or "").startswith("self."):
            continue
        trains = any(isinstance(f, FUNCTIONS) and re.match(r"train|fit", f.name) for f in owner.body)
        if trains and ".save(" in module.text_of(module.tree.function(call) or owner):
            message = f"{place} is traced for a file in the mode that its training leaves it in"
            yield call, message, f"Call {place}.eval() before."
