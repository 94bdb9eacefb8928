"""Training in evaluation mode, and evaluation in training mode."""

import ast
import re
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.calls import Place, attributes, target
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, called, key, receiver, walk, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._collected import collected_while_training
from ampguard.auditing.rules.amp._evaluation import TRAINING_MODE_WANTED, evaluations, mode_calls, run_model, source
from ampguard.auditing.rules.amp._hidden_runs import settled_hidden_runs
from ampguard.auditing.rules.amp._modes import (
    judged_by_phase,
    judged_in_training,
    models,
    never_judged,
    teachers_never_judged,
    trained_while_judged,
)
from ampguard.auditing.rules.amp._steps import RUNNERS, backward_calls, enclosing
from ampguard.auditing.rules.amp._trained_here import NAMES_TRAINING, is_trained_here, runs_as_trained, training_calls
from ampguard.auditing.rules.amp._unswitched import (
    held_and_run,
    judged_by_the_trainer,
    judged_for_others,
    loaded_and_run,
    put_back_only,
)

_TRAINS = re.compile(r"\.train\(|set_mode|\.training\s*=|train_mode")
_SWITCHERS = ("ightning", "Seq2SeqTrainer", "fabric.", "colossalai")
"""Words of the frameworks that switch a model's mode themselves; Accelerate and DeepSpeed leave it to the loop."""

_SAYS_MODE = re.compile(
    r"\.eval\(|\b(set|to|make|switch|put|turn)\w*eval\w*\(|\.train\(|eval_mode\b|evaluating\w*\(|functional_call|training\s*="
)
_MAY_SWITCH = re.compile(r"evaluation_mode|disable_dropout|requires_grad|freeze|prepare_model")
"""Signs that what is handed over is looked after in another way."""
_OF_TRAINING = re.compile(r"training_step|train_dataloader|\bloss\b|\.backward\(")
"""Signs of code that takes part in a training."""
_LAYERS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


class WrongModuleMode(Rule):
    """A training loop evaluates its model and goes on in evaluation mode, or evaluates in training mode.

    ## What it does
    Finds a loop that trains a model, calls `model.eval()` in between (itself, or in a function of the file that it
    calls), and has no `.train()` anywhere; `model.train()` before an evaluation that runs without gradients; and an
    evaluation in code that trains the same model and never calls `eval()`, on held-out data in the middle of the
    training loop too; and a model that is loaded, or handed to an evaluation or to an object of a training that is no
    module, and run without gradients in a file that says nothing of modes; features that a `training_step` collects.

    ## Why is this bad
    After `eval()` dropout is off and BatchNorm neither uses nor updates the statistics of the batch, so all that comes
    after the first evaluation trains another model. The other way round, results are random and depend on the batch.

    ## Example
    ```python
    import torch


    def fit(model, loader, held_out):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        for epoch in range(10):
            for batch in loader:
                model(batch).mean().backward()
                optimizer.step()
            model.eval()
            print(model(held_out))
    ```

    ## Use instead
    ```python
    import torch


    def fit(model, loader, held_out):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(10):
            model.train()
            for batch in loader:
                model(batch).mean().backward()
                optimizer.step()
            model.eval()
            print(model(held_out))
    ```

    ## Fix safety
    Safe; results change, because the model now trains as it was meant to.

    ## References
    - https://pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval
    """

    code = "AMP032"
    name = "wrong-module-mode"
    severity = Severity.MEDIUM
    impact = "From the first evaluation on, dropout is off and BatchNorm stands still while training goes on."
    risk = "Low: results change to what was meant."
    fix = "Call model.train() at the start of every epoch, and model.eval() before every evaluation."
    words = (
        ".eval()",
        ".train()",
        "load_state_dict",
        ".backward(",
        "torch.load(",
        "no_grad",
        "inference_mode",
        "def training_step",
    )

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every loop that trains on in evaluation mode, then every evaluation in training mode."""
        for run, message in collected_while_training(module):
            yield self._in_any_mode(module, run, message, "Run it in eval(), or gather the features in another hook.")
        yield from self._held(module)
        if module.mentions(_SWITCHERS):
            return
        if ".backward(" not in module.text:
            yield from self._loaded(module)
            yield from self._put_into_training(module) if module.role not in ("test", "benchmark") else ()
            return
        yield from self._left_in_eval(module)
        yield from self._put_into_training(module)
        yield from self._never_in_eval(module)

    def _loaded(self, module: Module) -> Iterator[Finding]:
        """Yield the runs of models that a script loads and never puts into evaluation mode."""
        if module.role in ("test", "benchmark") or module.mentions(RUNNERS) or _says_mode(module):
            return
        for found in judged_for_others(module):
            message = f"{found.function.name}() judges {found.model} in the mode that it happens to be in"
            yield self._in_any_mode(module, found.run, message, f"Call {found.model}.eval() before.")
        for run, model, line in loaded_and_run(module):
            message = f"{model} gets its weights at line {line} and runs in training mode: nothing here calls eval()"
            yield self.finding(
                module,
                run,
                message,
                severity=Severity.LOW,
                likelihood="possible",
                impact="Dropout is on and BatchNorm reads the batch, so the result is random.",
                fix=f"Call {model}.eval() after its weights are loaded.",
            )

    def _held(self, module: Module) -> Iterator[Finding]:
        """Yield the runs without gradients of models that an object is handed, in files that say nothing of modes."""
        if (
            module.role in ("test", "benchmark")
            or not module.mentions(("no_grad", "inference_mode"))
            or _says_mode(module)
        ):
            return
        if not _OF_TRAINING.search(module.about("train", "loss", "backward")):
            return  # a server or a rollout leaves the mode to who hands the model over
        for run, model, line in (
            held_and_run(module)
            if not _MAY_SWITCH.search(module.about("mode", "dropout", "requires_grad", "freeze", "prepare"))
            else ()
        ):
            message = (
                f"{model}, handed over at line {line}, runs without gradients in the mode that it happens to be in"
            )
            yield self._in_any_mode(module, run, message, f"Call {model}.eval() where it is kept.")

    def _in_any_mode(self, module: Module, run: ast.AST, message: str, fix: str) -> Finding:
        impact = "Where it is in training mode, dropout is on and BatchNorm reads the batch."
        return self.finding(module, run, message, severity=Severity.LOW, likelihood="possible", impact=impact, fix=fix)

    def _left_in_eval(self, module: Module) -> Iterator[Finding]:
        seen: set[ast.AST] = set()
        for step in (*backward_calls(module), *training_calls(module)):
            for loop in module.tree.loops(step):
                if loop in seen:
                    continue
                found = _switch_in(module, loop, step)
                if found is not None:
                    seen.add(loop)
                    place, message = found
                    yield self.finding(module, place, message, critical_path=True)
                    break

    def _put_into_training(self, module: Module) -> Iterator[Finding]:
        """Yield the calls that put a model into training mode just before it is judged."""
        impact = (
            "Dropout is on while the model is judged, and BatchNorm takes its statistics from what it is judged by."
        )
        seen: set[ast.AST] = set()
        for call, run in trained_while_judged(module):
            if run not in seen:
                seen.add(run)
                model = module.segment(receiver(call) or call, 30)
                message = f"{model} is put into training mode where gradients are off, and runs so at line {run.lineno}"
                fix = f"Call {model}.eval() here."
                low = Severity.LOW  # a run that calibrates or warms up is meant so
                yield self.finding(module, call, message, severity=low, likelihood="possible", impact=impact, fix=fix)
        for found in evaluations(module):
            calls = [c for c in mode_calls(module, "train", found.model) if not c.args and not c.keywords]
            calls = [c for c in calls if module.tree.inside(c, found.function) and c.lineno < found.run.lineno]
            if calls and "eval(" not in found.text.partition(":")[2] and not found.wants_training_mode:
                if found.run in seen:
                    continue
                message = f"{found.function.name}() puts {found.model} into training mode and judges it so"
                yield self.finding(module, calls[-1], message, impact=impact, fix=f"Call {found.model}.eval() here.")

    def _never_in_eval(self, module: Module) -> Iterator[Finding]:
        impact = "Dropout is on and BatchNorm reads the batch, so the result is random."
        for run, model, message in _in_training_mode(module):
            fix = f"Call {model}.eval() before, and {model}.train() when training goes on."
            yield self.finding(
                module, run, message, severity=Severity.LOW, likelihood="possible", impact=impact, fix=fix
            )


def _in_training_mode(module: Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Walk the evaluations before which nothing calls eval(): the run, the model, a message."""
    told_of: set[str] = set()
    for name, model, run, call in put_back_only(module) if module.role not in ("test", "benchmark") else ():
        told_of.add(name)
        yield run, model, f"{name}() puts {model} back into training mode at line {call.lineno}, but never calls eval()"
    if never_judged(module):
        stated = any(True for _ in module.calls_of(*_LAYERS)) or ".train()" in module.text
        for found in evaluations(module):
            if (
                stated
                or found.model in models(module)
                or (found.gradients_off and is_trained_here(module, found.model))
            ):
                message = f"{found.function.name}() runs {found.model}, and nothing in this file calls eval()"
                yield found.run, found.model, message
        switched = ".train()" in module.text and module.role not in ("test", "benchmark")
        for function, run in settled_hidden_runs(module, models(module)):
            if not switched and not runs_as_trained(module, run):
                continue
            if function.name not in told_of and not TRAINING_MODE_WANTED.search(source(module, function)):
                yield run, "the model", f"{function.name}() judges a model that trains here, and nothing calls eval()"
    else:
        for name, model, run, call in judged_by_the_trainer(module) if module.role not in ("test", "benchmark") else ():
            if name not in told_of:
                yield run, model, f"{name}() runs {model}, and neither it nor line {call.lineno} calls eval()"
    for run, model, branch in judged_by_phase(module) if module.role not in ("test", "benchmark") else ():
        asked = module.segment(branch.test, 40)
        yield run, model, f"{model} is trained here where {asked}, and judged else: in the mode that it trains in"
    for run, model in teachers_never_judged(module) if module.role not in ("test", "benchmark") else ():
        yield run, model, f"{model} teaches without gradients, and nothing in this file calls eval()"
    told = {run for _, run in trained_while_judged(module)}
    for run, model in judged_in_training(module):
        if run in told:
            continue
        yield run, model, f"{model} is judged here in the mode that it trains in: this function never calls eval()"


def _switch_in(module: Module, loop: Loop, backward: ast.Call) -> tuple[ast.AST, str] | None:
    """Return where a training loop puts its model into evaluation mode for good, with a message; None if it does not.

    What cannot be seen into, and anything that says `.train(`, counts as putting it back.
    """
    lines = module.text_of(loop)
    if _TRAINS.search(lines):
        return None
    place = target(module, backward)
    if place is not None and (_TRAINS.search(source(*place)) or ".eval()" in source(*place)):
        return None  # training that switches to evaluation mode by itself means it
    trained = _trained(module, loop) if place is None else _trained_by(module, backward, place)
    around = enclosing(module, loop)
    for call in mode_calls(module, "eval"):
        model = key(receiver(call))
        if not module.tree.inside(call, loop) or model not in trained or call.lineno <= backward.lineno:
            continue
        if any(
            c.lineno < backward.lineno and enclosing(module, c) is around for c in mode_calls(module, "eval", model)
        ):
            continue  # it is in evaluation mode from the start, which is meant
        if not any(_puts_back(module, c) for c in _calls_with(module, loop, {model})):
            return call, f"{model} stays in evaluation mode: the loop at line {loop.lineno} never calls {model}.train()"
    return _switch_in_callee(module, loop, backward, trained) or _switch_in_method(module, loop, backward, trained)


def _puts_back(module: Module, call: ast.Call) -> bool:
    """Whether a call that is handed the model may put it into training mode."""
    place = target(module, call)
    return bool(_TRAINS.search(source(*place)) if place is not None else NAMES_TRAINING.search(called(call)))


def _trained_by(module: Module, call: ast.Call, place: Place) -> set[str]:
    """Return the keys of the models that a training function works on: what it is handed, what its object holds."""
    held = {k for node in walk_scope(place[1]) if (k := run_model(node)) and k.startswith("self.")}
    given = {k for a in (*call.args, *(k.value for k in call.keywords)) if (k := key(a))}
    same = receiver(call) is not None and key(receiver(call)) == "self"
    return (given | (held if same else set())) & models(module)


def _switch_in_callee(module: Module, loop: Loop, backward: ast.Call, trained: set[str]) -> tuple[ast.AST, str] | None:
    """Return the call whose function leaves the model in evaluation mode, where every such function can be read."""
    calls = [(c, target(module, c)) for c in _calls_with(module, loop, trained)]
    if any(place is None or _TRAINS.search(source(*place)) for _, place in calls):
        return None
    for call, place in calls:
        given = _parameter_of(place, call, trained)
        if place is not None and given and call.lineno > backward.lineno and f"{given}.eval()" in source(*place):
            return call, f"{called(call)}() leaves {given} in evaluation mode, and the loop never calls train()"
    return None


def _switch_in_method(module: Module, loop: Loop, backward: ast.Call, trained: set[str]) -> tuple[ast.AST, str] | None:
    """Return the call of an own method that leaves `self.model` in evaluation mode, in a class that never trains it."""
    owner = module.tree.class_of(loop)
    if owner is None or _TRAINS.search(module.text_of(owner)):
        return None
    calls = [node for node in walk(loop) if isinstance(node, ast.Call) and key(receiver(node)) == "self"]
    held = attributes(module, owner)  # `self.net(x)` runs what the object holds, no method
    places = [(c, target(module, c)) for c in calls if c in module.tree.parents and called(c) not in held]
    if any(place is None for _, place in places):
        return None
    for call, place in places:
        for model in sorted(trained) if place is not None and call.lineno > backward.lineno else ():
            if place is not None and model.startswith("self.") and f"{model}.eval()" in source(*place):
                return call, f"{called(call)}() leaves {model} in evaluation mode, and nothing calls train() again"
    return None


def _trained(module: Module, loop: Loop) -> set[str]:
    """Return the keys that the loop calls as models, or hands on, and that the file trains."""
    ours = models(module)
    calls = [node for node in walk(loop) if isinstance(node, ast.Call)]
    found = {p for c in calls for p in (run_model(c), *(key(a) for a in c.args)) if p in ours}
    return {p for p in found if p is not None}


def _calls_with(module: Module, loop: Loop, trained: set[str]) -> list[ast.Call]:
    """Return the calls in the loop that are handed a trained model."""
    calls = [node for node in walk(loop) if isinstance(node, ast.Call)]
    return [c for c in calls if c in module.tree.parents and any(key(a) in trained for a in c.args)]


def _parameter_of(place: Place | None, call: ast.Call, trained: set[str]) -> str:
    """Return the name under which the called function knows the trained model."""
    names = [a.arg for a in place[1].args.args if a.arg != "self"] if place is not None else []
    return next((n for n, a in zip(names, call.args, strict=False) if key(a) in trained), "")


def _says_mode(module: Module) -> bool:
    return _SAYS_MODE.search(module.about("eval", "train", "functional_call")) is not None
