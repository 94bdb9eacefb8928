"""The loss scale fetched at every step."""

import ast
from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.reading.kinds import is_scaler
from ampguard.auditing.reading.module import Module
from ampguard.auditing.reading.tree import receiver
from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules.syncs._hot import per_loop


class GetScaleEveryStep(Rule):
    """`scaler.get_scale()` is called at every step.

    ## What it does

    Looks in loops that take a training step for `get_scale()` of a gradient scaler without a condition around it.

    ## Why is this bad

    The scale lies on the device: reading it waits for all that is queued. `update()` reads nothing.

    ## Example

    ```python
    def train(model, optimizer, scaler, batches, log):
        for batch in batches:
            loss = model(batch)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            log(scaler.get_scale())
    ```

    ## Use instead

    ```python
    def train(model, optimizer, scaler, batches, log):
        for step, batch in enumerate(batches):
            loss = model(batch)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if step % 100 == 0:
                log(scaler.get_scale())
    ```

    ## Fix safety

    Safe for logging. Where the scale tells whether a step was skipped (no other call of torch does), it is needed.

    ## References

    - The PyTorch performance tuning guide, "Avoid unnecessary CPU-GPU synchronization"
    """

    code = "SYN003"
    name = "get-scale-every-step"
    severity = Severity.INFO
    likelihood = "possible"
    impact = "The host waits for the device at every step."
    risk = "Low: a check for skipped steps needs the scale; logging does not."
    fix = "Read the scale every so many steps, or only where a skipped step matters."
    words = ("get_scale",)

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield the first such place of each training loop."""

        def say(node: ast.AST, more: str) -> Finding:
            return self.finding(module, node, f"`{module.segment(node)}` fetches the scale at every step{more}")

        calls = (c for c in module.calls_of("get_scale") if is_scaler(module, receiver(c)))
        yield from per_loop(module, calls, say)
