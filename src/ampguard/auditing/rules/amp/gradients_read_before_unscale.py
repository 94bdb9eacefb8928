"""Gradients are measured, logged or added to while they are still multiplied by the loss scale."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.gradients import violations, where_they_meet
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._order.grads_of_scaled import gradients_of_scaled_losses
from ampguard.auditing.rules.amp._order.kept_by_hooks import kept_by_hooks
from ampguard.auditing.rules.amp._protocol import ProtocolRule, through, where

_DIVIDE = "Divide what torch.autograd.grad returns by `scaler.get_scale()`: no optimizer unscales it."
_DIVIDED = "The step divides what is added by the loss scale (65536 at the start), so it hardly has an effect."
_FELT = "Training changes: the penalty or the noise starts to have the weight that it was given."
_QUOTIENT = "The epsilon beside the norm loses its meaning, and an overflow makes the quotient NaN."
_IN_A_HOOK = "Divide by `scaler.get_scale()` what a hook keeps: it runs before anything can unscale."

_FURTHER = {
    "add before unscale": "adds to",
    "perhaps add before unscale": "may add to",
    "perhaps read before unscale": "may measure",
}
"""The further kinds of violations, with what the call does by its code or by its name."""


class GradientsReadBeforeUnscale(ProtocolRule):
    """Gradients are measured, logged or added to while they are still multiplied by the loss scale.

    ## What it does
    Reports norms, means and maxima of `p.grad` on a path that has a scaled backward pass behind it and no
    `unscale_`; noise and penalties on the weights that are added to `p.grad` there (low where only the name of a
    function says that it adds or measures); and norms of what `torch.autograd.grad` returns for a scaled loss in a
    function that divides by no scale (low where one such norm is divided by another). Low: what backward hooks keep in
    a project that scales its loss, whose class asks for no scale. Finiteness checks are fine: the scale does not change
    their answer.

    ## Why is this bad
    The number that is logged (or decides something) is 65536 times too large, and jumps whenever the scale
    changes. What is added to gradients is divided by the scale with them: a penalty all but vanishes.

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
    Safe for training where gradients are only looked at: logged values change. A penalty starts to count.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-unscaled-gradients
    """

    code = "AMP002"
    name = "gradients-read-before-unscale"
    severity = Severity.MEDIUM
    likelihood = "certain"
    impact = "The value is off by the loss scale and jumps when the scale changes."
    risk = "Low: only what is measured changes."
    fix = "Call `scaler.unscale_(optimizer)` before gradients are looked at or added to."
    kinds = ("read before unscale",)
    words = (*ProtocolRule.words, "grad_out", "register_hook")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the reads behind a scaled backward pass, those of what a call returned, and what hooks keep."""
        yield from super().check(module)
        yield from self._further(module)
        for found in gradients_of_scaled_losses(module):
            taken = f"line {found.taken.lineno} took of a scaled loss"
            message = f"{module.segment(found.at)} uses gradients that {taken}, which nothing divides by the scale"
            severity = Severity.LOW if found.quotient else Severity.MEDIUM
            impact = _QUOTIENT if found.quotient else self.impact
            yield self.finding(module, found.at, message, severity=severity, impact=impact, fix=_DIVIDE)

        for use in kept_by_hooks(module):
            message = f"{module.segment(use)} keeps the gradient of an output, which a scaler's scale multiplies"
            yield self.finding(module, use, message, severity=Severity.LOW, likelihood="possible", fix=_IN_A_HOOK)

    def _further(self, module: Module) -> Iterator[Finding]:
        """Yield what is added to scaled gradients, and what only the name of a call tells: that it looks at them."""
        told: set[ast.AST] = set()
        for violation in (v for kind in _FURTHER for v in violations(module, kind)):
            at = self.place(module, violation)
            if at not in told:
                told.add(at)
                sure, adds = not violation.kind.startswith("perhaps"), "add" in violation.kind
                does = _FURTHER[violation.kind]
                left = f"the backward pass of {where(module, violation.earlier)} left multiplied by the loss scale"
                yield self.finding(
                    module,
                    at,
                    f"{module.segment(at)} {does} gradients that {left}{through(module, violation.event, at)}",
                    severity=Severity.MEDIUM if sure else Severity.LOW,
                    likelihood="certain" if sure else "possible",
                    impact=_DIVIDED if adds else None,
                    risk=_FELT if adds else None,
                    critical_path=True,
                )

    def place(self, module: Module, violation: Violation) -> ast.AST:
        """Return the call that comes too early: a function that measures gradients is right by itself."""
        return where_they_meet(module, violation)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        at = self.place(module, violation)
        left = f"the backward pass of {where(module, violation.earlier)} left multiplied by the loss scale"
        return f"{module.segment(at)} measures gradients that {left}{through(module, violation.event, at)}"
