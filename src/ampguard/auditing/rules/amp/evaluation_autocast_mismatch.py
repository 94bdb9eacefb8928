"""A model that trains under autocast and is evaluated without it."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.precision import region_around
from ampguard.auditing.reading.tree import key, walk_scope
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.amp._evaluation.runs import evaluations
from ampguard.auditing.rules.amp._steps import callers


class EvaluationAutocastMismatch(Rule):
    """The model runs under autocast in training and in float32 in the evaluation of the same file.

    ## What it does
    Notes an evaluation function whose model call stands in no autocast region, neither here nor at its callers in the
    file, while the same file calls a model of that name under autocast where it trains.

    ## Why is this bad
    It is no fault, but evaluation takes twice the time and memory, and its numbers are those of float32, not of what is
    deployed when inference runs in half precision.

    ## Example
    ```python
    import torch


    def train(model, loader, optimizer):
        for batch in loader:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(batch).mean()
            loss.backward()
            optimizer.step()


    @torch.no_grad()
    def validate(model, loader):
        total = 0.0
        for batch in loader:
            total += model(batch).mean().item()
        return total
    ```

    ## Use instead
    ```python
    import torch


    def train(model, loader, optimizer):
        for batch in loader:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(batch).mean()
            loss.backward()
            optimizer.step()


    @torch.no_grad()
    def validate(model, loader):
        total = 0.0
        for batch in loader:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                total += model(batch).mean().item()
        return total
    ```

    ## Fix safety
    Metrics move in their last digits.

    ## References
    - https://pytorch.org/docs/stable/amp.html#autocasting
    """

    code = "AMP033"
    name = "evaluation-autocast-mismatch"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "Evaluation is slower than training's forward pass, and measures another arithmetic."
    risk = "Low: metrics move in their last digits."
    fix = "Run the evaluation under the same autocast as training."
    words = ("autocast",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield every evaluation that leaves autocast out."""
        if ".backward(" not in module.text:
            return
        found = [e for e in evaluations(module) if "autocast" not in e.text]
        trained = _trained_under_autocast(module) if found else set()
        for one in found:
            last = one.model.split(".")[-1]
            if last not in trained or region_around(module, one.run) is not None:
                continue
            if any(region_around(module, c) is not None for c in callers(module, one.function)):
                continue
            message = f"{one.function.name}() runs {one.model} without the autocast that training uses"
            yield self.finding(module, one.run, message)


def _trained_under_autocast(module: Module) -> set[str]:
    """Return the last names of what is called under autocast in functions that have a backward pass."""
    training = {f for c in module.calls.get("backward", ()) if (f := module.tree.function(c)) is not None}
    return {
        name.split(".")[-1]
        for function in training
        for node in walk_scope(function)
        if isinstance(node, ast.Call)
        and (name := key(node.func))
        and (region := region_around(module, node)) is not None
        and region.enabled is not False
    }
