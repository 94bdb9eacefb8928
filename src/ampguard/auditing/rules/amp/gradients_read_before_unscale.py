"""Gradients are measured or logged while they are still multiplied by the loss scale."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, through, where


class GradientsReadBeforeUnscale(ProtocolRule):
    """Gradients are measured or logged while they are still multiplied by the loss scale.

    ## What it does
    Reports norms, means and maxima of `p.grad` on a path that has a scaled backward pass behind it and no
    `unscale_`. Finiteness checks are fine: the scale does not change their answer.

    ## Why is this bad
    The number that is logged (or decides something) is 65536 times too large, and jumps whenever the scale
    changes.

    ## Example
    ```python
    import torch

    def step(model, optimizer, scaler, loss, log):
        scaler.scale(loss).backward()
        log(sum(p.grad.norm() for p in model.parameters()))
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    def step(model, optimizer, scaler, loss, log):
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        log(sum(p.grad.norm() for p in model.parameters()))
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Safe for training; logged values change.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-unscaled-gradients
    """

    code = "AMP002"
    name = "gradients-read-before-unscale"
    severity = Severity.MEDIUM
    likelihood = "certain"
    impact = "The value is off by the loss scale and jumps when the scale changes."
    risk = "Low: only what is measured changes."
    fix = "Call `scaler.unscale_(optimizer)` before gradients are looked at."
    kinds = ("read before unscale",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} measures gradients that the backward pass of "
            f"{where(module, violation.earlier)} left multiplied by the loss scale{through(module, violation.event)}"
        )
