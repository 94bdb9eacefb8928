"""The scaler steps again without an `update()` in between."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class MissingScalerUpdate(ProtocolRule):
    """The scaler steps again without an `update()` in between.

    ## What it does
    Follows every path from one `scaler.step(optimizer)` to the next for the same optimizer, and reports the step
    where no `scaler.update()` lies on the path.

    ## Why is this bad
    Without `update()` the scale never adapts: after one overflow every later step is skipped too, and `unscale_`
    or a second `step()` raises RuntimeError.

    ## Example
    ```python
    import torch

    def train(model, optimizer, loader, loss_fn):
        scaler = torch.amp.GradScaler("cuda")
        for x, y in loader:
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            scaler.step(optimizer)
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
    Safe: the documentation asks for it.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.update
    """

    code = "AMP005"
    name = "missing-scaler-update"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "RuntimeError at the second step, or a loss scale that never adapts."
    risk = "Low."
    fix = "Call `scaler.update()` once a step, after every optimizer has stepped."
    kinds = ("no update",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        earlier = where(module, violation.earlier)
        again = " in the walk before" if violation.earlier is violation.event else f" (last at {earlier})"
        return f"{module.segment(violation.event.node)} steps again without `update()` since its last step{again}"
