"""Gradients are cleared between the backward pass and the step."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.gradients import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class ZeroGradBeforeStep(ProtocolRule):
    """Gradients are cleared between the backward pass and the step.

    ## What it does
    Reports a step on a path where `zero_grad()` has run after the last backward pass.

    ## Why is this bad
    The step has no gradients to apply: nothing is learned (or `scaler.step` fails its assertion), without any
    other sign.

    ## Example
    ```python
    def step(optimizer, scaler, loss):
        scaler.scale(loss).backward()
        optimizer.zero_grad()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    def step(optimizer, scaler, loss):
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Moving the call before the backward pass is what was meant.

    ## References
    - https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "AMP009"
    name = "zero-grad-before-step"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "The step applies nothing: the model does not learn."
    risk = "Low."
    fix = "Clear gradients before the backward pass or after the step."
    kinds = ("zero before step",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} has nothing to apply: the gradients were cleared at "
            f"{where(module, violation.earlier)}, after the backward pass"
        )
