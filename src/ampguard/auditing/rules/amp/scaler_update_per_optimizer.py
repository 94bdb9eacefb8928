"""One scaler is updated once per optimizer instead of once a step."""

from collections.abc import Iterator

from ampguard.auditing.findings import Finding, Severity
from ampguard.auditing.flow.protocol import Violation
from ampguard.auditing.reading.module import Module
from ampguard.auditing.rules.amp._order.looped_updates import looped_updates
from ampguard.auditing.rules.amp._order.updated_each_time import updated_each_time
from ampguard.auditing.rules.amp._protocol import ProtocolRule, where


class ScalerUpdatePerOptimizer(ProtocolRule):
    """One scaler is updated once per optimizer instead of once a step.

    ## What it does
    Reports a second `update()` of the same scaler within one walk through the training loop, where the two follow
    steps of different optimizers; low, an update in a loop over optimizers that the same scaler steps. Also an update
    at every micro-batch where the step comes only every k-th time, which fails.

    ## Why is this bad
    The scale grows (or shrinks) several times a step, its growth interval counts optimizers instead of steps, and
    gradients that were scaled before the first update are unscaled with another scale after it.

    ## Example
    ```python
    def train(scaler, gen, disc, opt_g, opt_d, loader):
        for x in loader:
            scaler.scale(gen(x)).backward()
            scaler.step(opt_g)
            scaler.update()
            scaler.scale(disc(x)).backward()
            scaler.step(opt_d)
            scaler.update()
    ```

    ## Use instead
    ```python
    def train(scaler, gen, disc, opt_g, opt_d, loader):
        for x in loader:
            scaler.scale(gen(x)).backward()
            scaler.step(opt_g)
            scaler.scale(disc(x)).backward()
            scaler.step(opt_d)
            scaler.update()
    ```

    ## Fix safety
    Removing all but the last `update()` changes how fast the scale grows, and nothing else.

    ## References
    - https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers
    """

    code = "AMP006"
    name = "scaler-update-per-optimizer"
    severity = Severity.MEDIUM
    likelihood = "likely"
    impact = "The loss scale moves several times a step."
    risk = "Low: one scaler per optimizer is right too."
    fix = "Call `update()` once, after all optimizers of the step; or give each optimizer a scaler of its own."
    kinds = (
        "several updates",
        "update per optimizer",
    )

    def check(self, module: Module) -> Iterator[Finding]:
        """Yield what the walk finds, then the updates in loops over optimizers with backward passes of their own."""
        told: set[int] = set()
        for finding in super().check(module):
            told.add(finding.line)
            yield finding
        for update, loop in looped_updates(module):
            if update.lineno not in told:
                text = f"{module.segment(update)} runs once for each optimizer of the loop at line {loop.lineno}"
                yield self.finding(module, update, text, severity=Severity.LOW, critical_path=True)

        for update, step in updated_each_time(module):
            if update.lineno not in told:
                text = (
                    f"{module.segment(update)} runs for every batch, and {module.segment(step)} (line {step.lineno})"
                    " only every k-th time: an update without a step or an unscale_ before it fails"
                )
                yield self.finding(module, update, text, severity=Severity.HIGH, critical_path=True)

    def told(self, module: Module, violation: Violation) -> str:
        """Say what is wrong, and since where."""
        return (
            f"{module.segment(violation.event.node)} follows another optimizer's `update()` of the same scaler in the "
            f"same step ({where(module, violation.earlier)})"
        )
