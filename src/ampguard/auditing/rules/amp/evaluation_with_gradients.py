"""A model that is evaluated while autograd records."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import Function
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._evaluation.called_off import called_where_off
from ampguard.auditing.rules.amp._evaluation.handed_runs import handed_run
from ampguard.auditing.rules.amp._evaluation.hidden_runs import recorded_hidden_runs
from ampguard.auditing.rules.amp._evaluation.modes import Stretch, recorded_run, settled_run, stretches
from ampguard.auditing.rules.amp._evaluation.recorded_between_steps import recorded_between_steps
from ampguard.auditing.rules.amp._evaluation.recorded_elsewhere import WORDS, recorded_elsewhere
from ampguard.auditing.rules.amp._evaluation.runs import (
    Evaluation,
    evaluates,
    evaluations,
    gradients_off_outside,
    run_model,
)
from ampguard.auditing.rules.amp._evaluation.single_runs import single_runs
from ampguard.auditing.rules.amp._evaluation.two_modes import recorded_in_two_modes
from ampguard.auditing.rules.amp._steps import enclosing


class EvaluationWithGradients(Rule):
    """An evaluation loop runs the model without `torch.no_grad()` or `torch.inference_mode()`.

    ## What it does
    Finds a function that is named as an evaluation, runs a model over data in a loop and has no backward pass, where
    gradients are switched off neither in it (around the run, not around the input alone), nor by a decorator, nor
    around its calls in the file; and a loop behind `model.eval()` in any other function that runs the model so; and a
    function that trains or judges as a flag says, where the flag decides on the mode and the backward pass, but not on
    gradients. Low where less is certain: a function that predicts from one batch with a model that it, or its object,
    puts into evaluation mode, an evaluation that its trainer calls and that switches no mode, one that runs its model
    through a method, a loop that hands its model on to what runs it, code that loads a model and takes values alone out
    of what it gives, or a sample or a preview that a training takes of its model between two steps.

    ## Why is this bad
    Every forward pass keeps its activations for a backward pass that never comes: several times the memory, often an
    out-of-memory error at the first evaluation, and slower.

    ## Example
    ```python
    def evaluate(model, loader, criterion):
        model.eval()
        total = 0.0
        for x, y in loader:
            total += criterion(model(x), y).item()
        return total


    def fit(model, loader, criterion, optimizer):
        for epoch in range(3):
            print(evaluate(model, loader, criterion))
    ```

    ## Use instead
    ```python
    import torch


    @torch.inference_mode()
    def evaluate(model, loader, criterion):
        model.eval()
        total = 0.0
        for x, y in loader:
            total += criterion(model(x), y).item()
        return total


    def fit(model, loader, criterion, optimizer):
        for epoch in range(3):
            print(evaluate(model, loader, criterion))
    ```

    ## Fix safety
    Safe where nothing in the function needs gradients.

    ## References
    - https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
    """

    code = "AMP031"
    name = "evaluation-with-gradients"
    severity = Severity.MEDIUM
    impact = "Each forward pass keeps its activations for a backward pass that never comes: memory and time."
    risk = "None, as long as nothing in the function needs gradients."
    fix = "Decorate the function with @torch.no_grad() or @torch.inference_mode()."
    words = ("val", "test", ".eval()", ".backward(", *WORDS)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every evaluation that records, once."""
        told: set[int] = set()
        yield from self._judged(module, told) if module.mentions(("val", "test", ".eval()", ".backward(")) else ()
        for run, message in recorded_elsewhere(module):
            if run.lineno not in told:
                told.add(run.lineno)
                yield self.finding(module, run, message, severity=Severity.LOW, likelihood="possible")

    def _judged(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield what is found around evaluations and models in evaluation mode."""
        for finding in (*self._over_data(module), *self._from_one_batch(module)):
            if finding.line not in told:
                told.add(finding.line)
                yield finding
        yield from self._between_steps(module, told)

    def _over_data(self, module: Module) -> Iterator[Finding]:
        """Yield the evaluations that run a model in loops."""
        if "torch" not in module.text and ".eval()" not in module.text:
            return
        if "ightning" in module.text or "set_grad_enabled" in module.text:
            return
        for found in evaluations(module):
            if found.gradients_off or found.needs_gradients:
                continue
            off = gradients_off_outside(module, found.function)
            if off or not (found.switches_mode or _beside_training(module, off) or _judges_for_all(module, found)):
                continue
            message = f"{found.function.name}() runs {found.model} over data and switches gradients off nowhere"
            weak = off is None or found.switches_if_told or not found.switches_mode
            severity, likelihood = (Severity.LOW, "possible") if weak else (Severity.MEDIUM, "likely")
            yield self.finding(module, found.run, message, severity=severity, likelihood=likelihood)
        yield from self._in_between(module, {found.function for found in evaluations(module)})
        for function, run in recorded_hidden_runs(module):
            if not gradients_off_outside(module, function):
                message = f"{function.name}() runs {module.segment(run)} over data and switches gradients off nowhere"
                yield self.finding(module, run, message, severity=Severity.LOW, likelihood="possible")
        for both in recorded_in_two_modes(module) if module.mentions((".train(",)) else ():
            message = (
                f"{both.model} runs with gradients on in both modes that line {both.switch.lineno} chooses between"
            )
            yield self.finding(module, both.run, message, severity=Severity.MEDIUM, likelihood="likely")

    def _from_one_batch(self, module: Module) -> Iterator[Finding]:
        """Yield the predictions outside of loops: by a model in evaluation mode, with gradients on."""
        for function, run, model in single_runs(module) if module.role not in ("test", "benchmark") else ():
            message = f"{function.name}() runs {model}, which is in evaluation mode, with gradients on"
            yield self.finding(module, run, message, severity=Severity.LOW, likelihood="possible")

    def _between_steps(self, module: Module, told: set[int]) -> Iterator[Finding]:
        """Yield the uses of a model behind the last step of a training, but for those told of where they run it."""
        if module.role in ("test", "benchmark") or module.mentions(("ightning", "set_grad_enabled")):
            return
        if "torch" not in module.text:
            return
        for call, (where, run, model) in recorded_between_steps(module):
            if call.lineno not in told and (where is not module or run.lineno not in told):
                message = f"{module.segment(call, 40)} runs {model} between two steps, with gradients on"
                told.add(call.lineno)
                yield self.finding(module, call, message, severity=Severity.LOW, likelihood="possible")

    def _in_between(self, module: Module, known: set[Function]) -> Iterator[Finding]:
        """Yield the evaluations that stand in another function: in the one that trains, or in a script."""
        seen: set[ast.AST] = set()
        for stretch in stretches(module) if module.role not in ("test", "benchmark") else ():
            function = module.tree.function(stretch.switch)
            run = _run_in(module, stretch) if function not in known else None
            if run is None or run in seen or stretch.needs_gradients:
                continue
            seen.add(run)
            trains = any(enclosing(module, c) is enclosing(module, run) for c in module.calls.get("backward", ()))
            if not trains and function is not None and (gradients_off_outside(module, function) or _off_in(function)):
                continue
            line = stretch.switch.lineno
            message = f"{stretch.model} is in evaluation mode from line {line} on, and runs over data with gradients on"
            sure = trains and run_model(run) == stretch.model
            severity, likelihood = (Severity.MEDIUM, "likely") if sure else (Severity.LOW, "possible")
            yield self.finding(module, run, message, severity=severity, likelihood=likelihood)


def _run_in(module: Module, stretch: Stretch) -> ast.Call | None:
    """Return the first run of a model in what follows its switch: in a loop, by itself or by what it is handed to."""
    return recorded_run(module, stretch) or settled_run(module, stretch) or handed_run(module, stretch)


def _beside_training(module: Module, off: bool | None) -> bool:
    """Whether the file trains and calls an evaluation itself: it need not switch modes to be one."""
    return off is False and ".backward(" in module.text and module.role not in ("test", "benchmark")


def _judges_for_all(module: Module, found: Evaluation) -> bool:
    """Whether an evaluation that switches no mode is no test, and is called where gradients are off nowhere."""
    named = evaluates(module, found.function) and module.role not in ("test", "benchmark")
    return named and not called_where_off(module, found.function)


def _off_in(function: Function) -> bool:
    """Whether a function that does not train asks for gradients, or freezes parameters, anywhere in it."""
    return "requires_grad" in ast.unparse(function)
