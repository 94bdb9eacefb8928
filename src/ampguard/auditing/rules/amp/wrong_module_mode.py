"""Training in evaluation mode, and evaluation in training mode."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Loop, receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._evaluation.collected import collected_while_training
from ampguard.auditing.rules.amp._evaluation.exported import exported_in_any_mode
from ampguard.auditing.rules.amp._evaluation.judged_elsewhere import WORDS, judged_elsewhere
from ampguard.auditing.rules.amp._evaluation.left_between_steps import (
    is_put_into_training,
    leaves,
    left_between_steps,
)
from ampguard.auditing.rules.amp._evaluation.left_in_evaluation import switch_in
from ampguard.auditing.rules.amp._evaluation.loaded_runs import loaded_and_run
from ampguard.auditing.rules.amp._evaluation.modes import never_judged, trained_while_judged
from ampguard.auditing.rules.amp._evaluation.never_in_eval import judged_in_training_mode
from ampguard.auditing.rules.amp._evaluation.one_of_several import left_beside_others
from ampguard.auditing.rules.amp._evaluation.predicted_as_fitted import predicted_as_fitted
from ampguard.auditing.rules.amp._evaluation.runs import evaluations, mode_calls
from ampguard.auditing.rules.amp._evaluation.trained_here import training_calls
from ampguard.auditing.rules.amp._evaluation.unlike_others import judged_unlike_others
from ampguard.auditing.rules.amp._evaluation.unswitched import (
    held_and_run,
    judged_by_the_trainer,
    judged_for_others,
    put_back_only,
)
from ampguard.auditing.rules.amp._steps import RUNNERS, backward_calls

_SWITCHERS = ("ightning", "Seq2SeqTrainer", "fabric.", "colossalai")
"""Words of the frameworks that switch a model's mode themselves; Accelerate and DeepSpeed leave it to the loop."""

_SAYS_MODE = regex(
    r"\.eval\(|\b(set|to|make|switch|put|turn)\w*eval\w*\(|(?<!rainer)\.train\((?![^()\n]*,)|eval_mode\b|evaluating\w*\(|functional_call|training\s*="
)
_MAY_SWITCH = regex(r"evaluation_mode|disable_dropout|requires_grad|freeze|prepare_model")  # looked after otherwise
_OF_TRAINING = regex(r"training_step|train_dataloader|\bloss\b|\.backward\(")
"""Signs of code that takes part in a training."""
_MODES = (
    *(".eval()", ".train()", "load_state_dict", ".backward(", "torch.load(", "no_grad", "inference_mode"),
    *("def training_step", "def eval", "def valid", "rainer.fit(", "torch.jit."),
)
"""Words of files that judge, train or load."""


class WrongModuleMode(Rule):
    """A training loop evaluates its model and goes on in evaluation mode, or evaluates in training mode.

    ## What it does
    Finds a loop that trains a model, calls `model.eval()` in between (itself, or in a function of the project that it
    calls, under whatever name the model goes by there: `model.module`, `self`), and has no `.train()` in it, also where
    `.train()` stands before the loop; `model.train()` before an evaluation that runs without gradients; and an
    evaluation in code that trains the same model and never calls `eval()`, on held-out data in the middle of the
    training loop too, or where the others of its file call it; and a model that is loaded, or handed to an evaluation
    or to an object of a training that is no module, and run without gradients, itself or by a method, or scripted for a
    file, where nothing is said of modes, be its weights read here or by a function of another file; features that a
    `training_step` collects; a prediction with a model that a trainer's `fit`, or its own class, has left in training
    mode; and a model that an evaluation runs beside another one, which alone it puts into evaluation mode.

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
    words = (*_MODES, *WORDS)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield what is found, once a place: the gravest of what is said of it."""
        told: dict[tuple[int, int], Finding] = {}
        for finding in self._found(module):
            place = (finding.line, finding.column)
            if place not in told or told[place].severity < finding.severity:
                told[place] = finding
        yield from told.values()

    def _found(self, module: Module) -> Iterator[Finding]:
        """Yield every loop that trains on in evaluation mode, and every evaluation in training mode."""
        for run, message in collected_while_training(module):
            yield self._in_any_mode(module, run, message, "Run it in eval(), or gather the features in another hook.")
        for run, message, fix in judged_elsewhere(module):
            yield self._in_any_mode(module, run, message, fix)
        if not module.mentions(_MODES):
            return
        yield from self._held(module)
        yield from self._fitted(module) if module.role not in ("test", "benchmark") else ()
        if module.mentions(_SWITCHERS):
            return
        yield from self._unlike(module)
        if ".backward(" not in module.text:
            yield from self._loaded(module)
            yield from self._put_into_training(module) if module.role not in ("test", "benchmark") else ()
            yield from (self._between_steps(module, *found) for found in left_between_steps(module))
            return
        yield from self._left_in_eval(module)
        yield from self._put_into_training(module)
        yield from self._never_in_eval(module)

    def _fitted(self, module: Module) -> Iterator[Finding]:
        """Yield the runs of models that a trainer left in training mode, and of those that an evaluation passes by."""
        for name, model, run in predicted_as_fitted(module):
            where = f"{name}() runs {model}" if name else f"{model} runs here"
            message = f"{where} as `fit` leaves it, in training mode: nothing in this file calls eval()"
            yield self._in_any_mode(module, run, message, f"Call {model}.eval() before.")
        for function, switched, model, run in left_beside_others(module) if not module.mentions(_SWITCHERS) else ():
            message = f"{function.name}() puts {switched} into evaluation mode, and runs {model} in the one that it has"
            yield self._in_any_mode(module, run, message, f"Call {model}.eval() too, and train() where it trains.")

    def _unlike(self, module: Module) -> Iterator[Finding]:
        """Yield the evaluations that leave out what the others of their file do: the call of eval()."""
        if not module.mentions((".eval()",)) or not module.mentions(("no_grad", "inference_mode", "set_grad_enabled")):
            return
        trains = ".backward(" in module.text and not never_judged(module)
        told = {found[2] for found in judged_by_the_trainer(module)} if trains else set()
        told |= {found[2] for found in put_back_only(module)}
        for function, model, run, other in judged_unlike_others(module):
            if run not in told:
                message = f"{function.name}() never puts {model} into evaluation mode, as {other.name}() does"
                yield self._in_any_mode(module, run, message, f"Call {model}.eval() in {function.name}().")

    def _loaded(self, module: Module) -> Iterator[Finding]:
        """Yield the runs of models that a script loads and never puts into evaluation mode."""
        if module.role in ("test", "benchmark") or module.mentions(RUNNERS):
            return
        yield from self._loaded_and_run(module)
        if _says_mode(module):
            return
        for call, model in exported_in_any_mode(module) if module.mentions(("torch.jit.",)) else ():
            message = f"{model} is written for prediction in training mode: nothing here calls eval()"
            yield self._in_any_mode(module, call, message, f"Call {model}.eval() before.")
        for found in judged_for_others(module):
            message = f"{found.function.name}() judges {found.model} in the mode that it happens to be in"
            yield self._in_any_mode(module, found.run, message, f"Call {found.model}.eval() before.")

    def _loaded_and_run(self, module: Module) -> Iterator[Finding]:
        """Yield the runs of models that get their weights here and are put into evaluation mode nowhere."""
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
                found = switch_in(module, loop, step)
                if found is not None and not leaves(module, found[0], loop):
                    seen.add(loop)
                    place, message = found
                    yield self.finding(module, place, message, critical_path=True)
                    break
        for call, model, loop in left_between_steps(module):
            if not any(module.tree.inside(known, loop) for known in seen):
                yield self._between_steps(module, call, model, loop)

    def _between_steps(self, module: Module, call: ast.Call, model: str, loop: Loop) -> Finding:
        behind = f"for the next steps of the loop at line {loop.lineno}"
        message = f"{module.segment(call, 40)} leaves {model} in evaluation mode {behind}"
        said = is_put_into_training(module, call, model, loop) and module.role not in ("test", "benchmark")
        severity, likelihood = (Severity.MEDIUM, "likely") if said else (Severity.LOW, "possible")
        return self.finding(module, call, message, severity=severity, likelihood=likelihood, critical_path=True)

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
        for run, model, message in judged_in_training_mode(module):
            fix = f"Call {model}.eval() before, and {model}.train() when training goes on."
            yield self.finding(
                module, run, message, severity=Severity.LOW, likelihood="possible", impact=impact, fix=fix
            )


def _says_mode(module: Module) -> bool:
    return _SAYS_MODE.search(module.about("eval", "train", "functional_call")) is not None
