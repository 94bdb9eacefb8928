"""One step adds gradients of a scaled and of an unscaled loss."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class MixedLosses(ProtocolRule):
    """One step adds gradients of a scaled and of an unscaled loss.

    ## What it does
    Reports a backward pass of the other kind (scaled after plain, plain after scaled) before the gradients are
    stepped or cleared.

    ## Why is this bad
    One of the two losses is weighted 65536 times more than the other.

    ## Example
    ```python
    def train(model, optimizer, scaler, loader, loss_a, loss_b):
        for x in loader:
            optimizer.zero_grad()
            scaler.scale(loss_a(model(x))).backward()
            loss_b(model(x)).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Use instead
    ```python
    def train(model, optimizer, scaler, loader, loss_a, loss_b):
        for x in loader:
            optimizer.zero_grad()
            scaler.scale(loss_a(model(x))).backward()
            scaler.scale(loss_b(model(x))).backward()
            scaler.step(optimizer)
            scaler.update()
    ```

    ## Fix safety
    Training changes: the losses get their intended weights.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers
    """

    code = "AMP013"
    name = "scaled-and-plain-losses"
    severity = Severity.HIGH
    likelihood = "likely"
    impact = "One loss counts 65536 times more than the other."
    risk = "Training changes: the losses get their intended weights."
    fix = "Scale every loss whose gradients go into one step."
    kinds = ("mixed losses",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} adds to the gradients of {where(module, violation.earlier)}; "
            "one of the two losses is scaled, the other is not"
        )
