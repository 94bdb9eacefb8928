"""`unscale_` is called after the optimizer has already stepped."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class UnscaleAfterStep(ProtocolRule):
    """`unscale_` is called after the optimizer has already stepped.

    ## What it does
    Reports `unscale_` on a path where `scaler.step` of the same optimizer has run and `update()` has not.

    ## Why is this bad
    Torch raises RuntimeError: unscale_() is being called after step().

    ## Example
    ```python
    import torch

    def step(model, optimizer, scaler, loss):
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.update()
    ```

    ## Use instead
    ```python
    import torch

    def step(model, optimizer, scaler, loss):
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    ```

    ## Fix safety
    Changes the order of calls; what came after the step now comes before it.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.unscale_
    """

    code = "AMP004"
    name = "unscale-after-step"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "Training stops with a RuntimeError, and whatever was meant to see unscaled gradients never did."
    risk = "Low."
    fix = "Move `unscale_` between `backward()` and `scaler.step`."
    kinds = ("unscale after step",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} comes after the step of {where(module, violation.earlier)}: "
            "torch raises RuntimeError"
        )
