"""Models that are judged or run with nothing that puts them into evaluation mode: by their trainer, after loading."""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.calls import target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.names import parameters
from ampguard.auditing.reading.tree import FUNCTIONS, Function, called, key, receiver, walk_scope
from ampguard.auditing.rules.amp._evaluation.hidden_runs import settled_hidden_runs
from ampguard.auditing.rules.amp._evaluation.modes import models
from ampguard.auditing.rules.amp._evaluation.runs import (
    NEEDS,
    OFF,
    TRAINING_MODE_WANTED,
    Evaluation,
    evaluates,
    evaluations,
    mode_calls,
    off_around,
    source,
)
from ampguard.auditing.rules.amp._steps import arms, callers


def judged_by_the_trainer(module: Module) -> Iterator[tuple[str, str, ast.Call, ast.Call]]:
    """Walk the evaluations that switch no mode, each with a call in code that trains and switches none either.

    The evaluation's name, its model, the run, the call. Only those that switch gradients off, and so are meant to
    judge; another evaluation of the file may switch.
    """
    for function, model, run in _silent_evaluations(module):
        calls = list(_looped_calls(module, function))
        left = {call: mode_left_before(module, call) for call in calls}
        for call in calls:
            if left[call] == "train":
                yield function.name, model, run, call
                break
            texts = _texts_around(module, call)
            if left[call] is not None or not any(".backward(" in t for t in texts):
                continue
            if any(".train()" in t for t in texts) and all(_switched_nowhere(module, c) for c in calls):
                yield function.name, model, run, call
                break


def _silent_evaluations(module: Module) -> Iterator[tuple[Function, str, ast.Call]]:
    """Walk the evaluations without gradients that say nothing of a mode: the function, its model, the run."""
    for found in evaluations(module):
        if found.gradients_off and not found.wants_training_mode and not SETS_MODE.search(found.text):
            yield found.function, found.model, found.run
    for function, run in settled_hidden_runs(module, models(module)):
        text = source(module, function)
        if not TRAINING_MODE_WANTED.search(text) and not SETS_MODE.search(text):
            yield function, "its model", run


def _looped_calls(module: Module, function: Function, *, depth: int = 0) -> Iterator[ast.Call]:
    """Walk the calls of a function that stand in loops, those of the functions around its other calls among them."""
    for call in callers(module, function):
        around = module.tree.function(call)
        if any(True for _ in module.tree.loops(call)):
            yield call
        elif around is not None and depth < _DEPTH and not SETS_MODE.search(source(module, around)):
            yield from _looped_calls(module, around, depth=depth + 1)


_DEPTH = 2


def put_back_only(module: Module) -> Iterator[tuple[str, str, ast.Call, ast.Call]]:
    """Walk the evaluations that put their model back into training mode, which they never took it out of.

    The evaluation's name, the model, the run, and the call `train()` behind it.
    """
    for function in module.functions if module.mentions((".train()",)) else ():
        if not evaluates(module, function):
            continue
        text = source(module, function)
        if not OFF.search(text) or ".backward(" in text or SETS_MODE.search(text) or NEEDS.search(text):
            continue
        back = [c for c in mode_calls(module, "train") if module.tree.function(c) is function and not c.args]
        loops = [n for n in walk_scope(function) if isinstance(n, ast.For | ast.While)]
        for call in back if len(loops) else ():
            run = next((c for loop in loops for c in _inside(loop) if c.lineno < call.lineno and _may_run(c)), None)
            behind = run is not None and not any(module.tree.inside(call, loop) for loop in loops[:1])
            if run is not None and behind and not TRAINING_MODE_WANTED.search(text):
                yield function.name, module.segment(receiver(call) or call, 30), run, call
                break


def _inside(loop: ast.AST) -> Iterator[ast.Call]:
    return (node for node in walk_scope(loop) if isinstance(node, ast.Call) and (node.args or node.keywords))


def _may_run(call: ast.Call) -> bool:
    return bool(re.search(r"model|net|step|forward|predict|infer|generat|decod|encod|loss", ast.unparse(call.func)))


def mode_left_before(module: Module, call: ast.Call) -> str | None:
    """Return the mode, "train" or "eval", that the pass of a loop leaves its models in before a call; None if unsaid.

    What stands before the call in the loops around it is read, and what that calls in the project.
    """
    loops = list(module.tree.loops(call))
    mode: str | None = None
    before = [n for n in walk_scope(loops[-1]) if isinstance(n, ast.Call)] if loops else []
    for node in sorted(before, key=lambda n: (n.lineno, n.col_offset)):
        if node is call or (node.lineno, node.col_offset) > (call.lineno, call.col_offset) or arms(module, node, call):
            continue
        if called(node) in ("eval", "train") and receiver(node) is not None and key(receiver(node)) != "self":
            mode = "eval" if called(node) == "eval" or node.args or node.keywords else "train"
            continue
        place = target(module, node, (".eval()", ".train("))
        if place is not None:
            mode = _mode_left(source(*place)) or mode
    return mode


def _mode_left(text: str) -> str | None:
    """Return the last mode that a text names; "eval" where what it says cannot be told."""
    said = list(SETS_MODE.finditer(text))
    last = said[-1].end() if said else -1
    trained = text.rfind(".train()")
    if trained < 0 and last < 0:
        return None
    return "train" if trained > last else "eval"


def judged_for_others(module: Module) -> Iterator[Evaluation]:
    """Walk the evaluations of models that they are handed, where neither their file nor one that runs them says a mode.

    For files that neither train nor say anything of a mode. Only those that mean to judge: they switch gradients off,
    or are named so and run by code that trains.
    """
    for found in evaluations(module):
        handed = any(arg.arg == found.model for arg, _ in parameters(found.function))
        if not handed or found.needs_gradients or found.wants_training_mode:
            continue
        meant = found.gradients_off or _trained_where_run(module, found.function)
        if meant and not switched_where_run(module, found.function.name):
            yield found


def _trained_where_run(module: Module, function: Function) -> bool:
    """Whether another file runs a function of the module, by its name, beside a backward pass of its own."""
    name, stem = function.name, PurePosixPath(module.path).stem
    if module.tree.class_of(function) is not None:
        return False
    imported = re.compile(rf"import [^\n]*\b{re.escape(name)}\b|\b{re.escape(stem)}\.{re.escape(name)}\(")
    texts = (text for path, text in module.project.texts(".backward(") if path != module.path)
    return any(f"{name}(" in text and imported.search(text) is not None for text in texts)


def switched_where_run(module: Module, name: str, *, but: str = "") -> bool:
    """Whether a file of the project that runs a function of that name calls eval(), but for one, if that is named.

    The texts are read once a name.
    """
    question = ("switched where run", name, but)
    if question not in module.project.memo:
        files = ((path, text) for path, text in module.project.texts() if path != but)
        texts = (text for path, text in files if path == module.path or f"def {name}(" not in text)
        module.project.memo[question] = any(f"{name}(" in text and ".eval()" in text for text in texts)
    return bool(module.project.memo[question])


SETS_MODE = regex(
    r"\.eval\(\)|\.train\(\s*[^)\s]|set_mode|eval_mode\b|\bevaluating\w*\(|functional_call|\.training\s*="
)


def _switched_nowhere(module: Module, call: ast.Call) -> bool:
    """Whether neither the function around a call, nor what it calls, puts a model into another mode."""
    texts = _texts_around(module, call)
    return bool(texts) and not any(_leaves_mode(text) for text in texts[1:]) and not SETS_MODE.search(texts[0])


def _leaves_mode(text: str) -> bool:
    """Whether a function puts a model into a mode and leaves it there: one that puts it back does not count."""
    put = list(SETS_MODE.finditer(text))
    return bool(put) and not (put[-1][0] == ".eval()" and ".train()" in text[put[-1].end() :])


def _texts_around(module: Module, call: ast.Call) -> list[str]:
    """Return the source of the function around a call, and of the functions of the project that it calls."""
    around = module.tree.function(call)
    if around is None:
        return []
    inner = [c for c in walk_scope(around) if isinstance(c, ast.Call)]
    places = [place for c in inner if (place := target(module, c, (".eval()", ".backward("))) is not None]
    return [source(module, around), *(source(*place) for place in places)]


_HELD = regex(r"(\w*_)?(model|net|network|teacher|reference|critic|judge)", re.IGNORECASE)


def held_and_run(module: Module) -> Iterator[tuple[ast.Call, str, int]]:
    """Walk the runs, without gradients, of models that a class is handed: the run, the model, the line it is kept at.

    Not in a module, whose parts are switched with it; for files that say nothing of a mode. Once a model.
    """
    for cls in module.tree.all(ast.ClassDef):
        if any(SWITCHED_WITH.search(ast.unparse(b)) for b in cls.bases):
            continue
        for name, place, line in _handed_models(cls):
            run = next((c for c in module.calls.get(name, ()) if key(c.func) == place and off_around(module, c)), None)
            if run is not None and module.tree.class_of(run) is cls:
                yield run, place, line


SWITCHED_WITH = regex(r"Module|Metric|Loss|Model\b|Pipeline|Wrapper")


def _handed_models(cls: ast.ClassDef) -> Iterator[tuple[str, str, int]]:
    made = next((f for f in cls.body if isinstance(f, FUNCTIONS) and f.name == "__init__"), None)
    given = {a.arg for a in (*made.args.args, *made.args.kwonlyargs)} if made is not None else set()
    for node in walk_scope(made) if made is not None else ():
        if not isinstance(node, ast.Assign):
            continue
        place, held = key(node.targets[0]), key(node.value)
        if place and place.startswith("self.") and held in given and _HELD.fullmatch(held or ""):
            yield place.removeprefix("self."), place, node.lineno
