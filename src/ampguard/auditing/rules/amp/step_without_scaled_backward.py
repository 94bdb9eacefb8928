"""`scaler.step()` follows a backward pass whose loss was not scaled."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class StepWithoutScaledBackward(ProtocolRule):
    """`scaler.step()` follows a backward pass whose loss was not scaled.

    ## What it does
    Reports `scaler.step(optimizer)` on a path whose last backward pass did not go through `scaler.scale(loss)`.

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

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} unscales gradients of the backward pass of "
            f"{where(module, violation.earlier)}, whose loss was not scaled"
        )
