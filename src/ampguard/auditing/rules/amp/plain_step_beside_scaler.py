"""`optimizer.step()` applies gradients that are still multiplied by the loss scale."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class PlainStepBesideScaler(ProtocolRule):
    """`optimizer.step()` applies gradients that are still multiplied by the loss scale.

    ## What it does
    Follows every path from a scaled backward pass to `optimizer.step()` and reports it where nothing has unscaled
    the gradients; a step in the branch without mixed precision is fine.

    ## Why is this bad
    The update is multiplied by the loss scale, and steps with inf or NaN are not skipped.

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            optimizer.step()
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
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.step
    """

    code = "AMP008"
    name = "plain-step-beside-scaler"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "Updates are multiplied by the loss scale, and non-finite gradients are applied."
    risk = "Training changes: a learning rate that was lowered to make up for it is too low afterwards."
    fix = "Write `scaler.step(optimizer)`."
    kinds = ("plain step",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} applies gradients that the backward pass of "
            f"{where(module, violation.earlier)} left multiplied by the loss scale"
        )
