"""`scaler.step()` follows a backward pass whose loss was not scaled."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._order.plain_beside_scaled import plain_beside_scaled
from ampguard.auditing.rules.amp._order.scale_dropped import dropping_functions, unscaled_for_a_framework
from ampguard.auditing.rules.amp._order.scaler_called import called_scalers
from ampguard.auditing.rules.amp._precision.overridden_steps import unscaled_overrides
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class StepWithoutScaledBackward(ProtocolRule):
    """`scaler.step()` follows a backward pass whose loss was not scaled.

    ## What it does
    Reports `scaler.step(optimizer)` on a path whose last backward pass did not go through `scaler.scale(loss)`, and a
    scaler that is called itself, `scaler(loss).backward()`; also (low) a framework's backward pass that is given the
    plain loss where a scaler is updated, and a custom `autograd.Function` of a project with a scaler whose `backward`
    never reads the gradient that comes in; a plain backward pass of a float16 loss beside that of a scaled one (low);
    and (medium) a plain backward pass in a method that the base class runs under autocast, to scale what it returns.

    ## Why is this bad
    The scaler divides gradients by a scale that they were never multiplied by: the update is 65536 times too small
    (or an assertion fails, where nothing was ever scaled).

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Fix safety
    Training changes: updates get their intended size.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.scale
    """

    code = "AMP007"
    name = "step-without-scaled-backward"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "Updates are divided by the loss scale, or the first step fails an assertion."
    risk = "Training changes: a learning rate that was raised to make up for it is too high afterwards."
    fix = "Write `scaler.scale(loss).backward()`."
    kinds = ("no scale",)

    words = (*ProtocolRule.words, "autograd")

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the steps without a scaled loss, and where the scale is lost on its way."""
        yield from super().check(module)
        for backward, step in unscaled_overrides(module):
            text = f"{module.segment(backward)} scales no loss, and {step.base.name} runs {step.method.name}() under "
            text += "autocast, with a scaler for what it returns"
            yield self.finding(module, backward, text, severity=Severity.MEDIUM, likelihood="likely")
        for call in called_scalers(module):
            scaler = module.segment(call.func)
            text = f"`{scaler}` is no function: {scaler}.scale(...) scales a loss, and this stops with a TypeError"
            yield self.finding(module, call, text, critical_path=True)
        for returned in dropping_functions(module):
            text = "backward() never reads the gradient that comes in: the scale of the loss is lost here"
            yield self.finding(
                module, returned, text, severity=Severity.LOW, likelihood="possible", fix="Multiply by the gradient."
            )
        for backward, update in unscaled_for_a_framework(module):
            updated = f"{module.segment(update)} (line {update.lineno})"
            text = f"{module.segment(backward)} is given a loss that nothing scaled, beside {updated}"
            yield self.finding(module, backward, text, severity=Severity.LOW, likelihood="possible")

        for backward, scaled in plain_beside_scaled(module):
            text = f"{module.segment(backward)} scales nothing, and its loss comes from float16 as that of "
            text += f"{module.segment(scaled, 40)} (line {scaled.lineno}) does"
            yield self.finding(module, backward, text, severity=Severity.LOW, likelihood="likely", critical_path=True)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} unscales gradients of the backward pass of "
            f"{where(module, violation.earlier)}, whose loss was not scaled"
        )
