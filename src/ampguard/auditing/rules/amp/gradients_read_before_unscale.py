"""Gradients are measured or logged while they are still multiplied by the loss scale."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._order.grads_of_scaled import gradients_of_scaled_losses
from ampguard.auditing.rules.amp._order.kept_by_hooks import kept_by_hooks
from ampguard.auditing.rules.amp._protocol import ProtocolRule, through, where

_DIVIDE = "Divide what torch.autograd.grad returns by `scaler.get_scale()`: no optimizer unscales it."
_QUOTIENT = "The epsilon beside the norm loses its meaning, and an overflow makes the quotient NaN."
_IN_A_HOOK = "Divide by `scaler.get_scale()` what a hook keeps: it runs before anything can unscale."


class GradientsReadBeforeUnscale(ProtocolRule):
    """Gradients are measured or logged while they are still multiplied by the loss scale.

    ## What it does
    Reports norms, means and maxima of `p.grad` on a path that has a scaled backward pass behind it and no
    `unscale_`, and of what `torch.autograd.grad` returns for a scaled loss in a function that divides by no scale (low
    where one such norm is divided by another). Low: what backward hooks keep in a project that scales its loss, whose
    class asks for no scale. Finiteness checks are fine: the scale does not change their answer.

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
    words = (*ProtocolRule.words, "grad_out", "register_hook")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the reads behind a scaled backward pass, those of what a call returned, and what hooks keep."""
        yield from super().check(module)
        for found in gradients_of_scaled_losses(module):
            taken = f"line {found.taken.lineno} took of a scaled loss"
            message = f"{module.segment(found.at)} uses gradients that {taken}, which nothing divides by the scale"
            severity = Severity.LOW if found.quotient else Severity.MEDIUM
            impact = _QUOTIENT if found.quotient else self.impact
            yield self.finding(module, found.at, message, severity=severity, impact=impact, fix=_DIVIDE)

        for use in kept_by_hooks(module):
            message = f"{module.segment(use)} keeps the gradient of an output, which a scaler's scale multiplies"
            yield self.finding(module, use, message, severity=Severity.LOW, likelihood="possible", fix=_IN_A_HOOK)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} measures gradients that the backward pass of "
            f"{where(module, violation.earlier)} left multiplied by the loss scale{through(module, violation.event)}"
        )
