"""`unscale_` is called twice for one optimizer before `update()`."""

from ampguard.auditing.findings import Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class UnscaleTwice(ProtocolRule):
    """`unscale_` is called twice for one optimizer before `update()`.

    ## What it does
    Follows every path for two calls of `unscale_` with the same optimizer and no `scaler.update()` in between;
    typical is `unscale_` in every micro-step of an accumulation whose `step()` and `update()` come only every k-th
    time.

    ## Why is this bad
    Torch raises RuntimeError: unscale_() has already been called on this optimizer since the last update().

    ## Example
    ```python
    def train(model, optimizer, scaler, loader, loss_fn, k):
        for i, (x, y) in enumerate(loader):
            scaler.scale(loss_fn(model(x), y) / k).backward()
            scaler.unscale_(optimizer)
            if (i + 1) % k == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    ```

    ## Use instead
    ```python
    def train(model, optimizer, scaler, loader, loss_fn, k):
        for i, (x, y) in enumerate(loader):
            scaler.scale(loss_fn(model(x), y) / k).backward()
            if (i + 1) % k == 0:
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    ```

    ## Fix safety
    Moving the call is safe where nothing reads the gradients of the micro-steps in between.

    ## References
    - https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler.unscale_
    """

    code = "AMP003"
    name = "unscale-twice"
    severity = Severity.CRITICAL
    likelihood = "certain"
    impact = "Training stops with a RuntimeError at the second call."
    risk = "Low."
    fix = "Call `unscale_` once per optimizer and step, right before the clipping and `scaler.step`."
    kinds = ("unscale twice",)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} runs again before `update()` (first at "
            f"{where(module, violation.earlier)}): torch raises RuntimeError"
        )
