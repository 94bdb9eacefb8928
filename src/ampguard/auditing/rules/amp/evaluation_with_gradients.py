"""A model that is evaluated while autograd records."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._evaluation import evaluations, gradients_off_outside


class EvaluationWithGradients(Rule):
    """An evaluation loop runs the model without `torch.no_grad()` or `torch.inference_mode()`.

    ## What it does
    Finds a function that is named as an evaluation, runs a model over data in a loop and has no backward pass, where
    gradients are switched off neither in it, nor by a decorator, nor around its calls in the file.

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
    words = ("val", "test")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every evaluation that records."""
        if "torch" not in module.text and ".eval()" not in module.text:
            return
        if "ightning" in module.text or "set_grad_enabled" in module.text:
            return
        for found in evaluations(module):
            if found.gradients_off or found.needs_gradients or not found.switches_mode:
                continue
            off = gradients_off_outside(module, found.function)
            if off:
                continue
            message = f"{found.function.name}() runs {found.model} over data and switches gradients off nowhere"
            severity, likelihood = (Severity.LOW, "possible") if off is None else (Severity.MEDIUM, "likely")
            yield self.finding(module, found.run, message, severity=severity, likelihood=likelihood)
